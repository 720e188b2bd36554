"""Tool calling with Kimi-K2 in four lessons. Read them from the top, or run them:

    python kimi_k2_api_example.py --offline     no key: a mock server on this machine answers
    python kimi_k2_api_example.py               with your key in MOONSHOT_API_KEY
    python kimi_k2_api_example.py --prompt "Is it warmer in Cairo or in Sydney?"
    python kimi_k2_api_example.py --mode anthropic --temperature 0.6

A language model only writes text. With tool calling, you describe your functions to it. When it
needs one, it replies with the function's name and arguments; your program runs the function and
sends back the result, and the model uses it to answer. Moonshot's API is compatible with OpenAI's,
so `client` is an openai.OpenAI with another base URL, and `model` is the id of a model.

To use a lesson in your own program, create a file next to the tools/ folder. (Without a key, first
run "python -m tools.offline" in another terminal, and then the export lines that it prints.) Start
the file with these lines, paste the lesson below them, and call it: lesson_1(client, model)

    import json
    from openai import OpenAI
    from tools import TOOLS, run_tool
    from tools.endpoint import choose_model, list_models, read_settings
    from tools.kimi_format import parse, render_prompt
    from tools.loop import run_loop

    settings = read_settings()  # MOONSHOT_API_KEY and MOONSHOT_BASE_URL, or .env
    # make_client(settings) in tools.endpoint does the same, and waits out rate limits, too.
    client = OpenAI(api_key=settings.api_key, base_url=settings.base_url)
    model, _ = choose_model(settings, list_models(client))
"""

import json

from tools import TOOLS, run_tool
from tools.kimi_format import parse, render_prompt
from tools.loop import run_loop
from tools.script import connect, flag_parser, run_script


def lesson_1(client, model):
    """The loop: run the tools that the model calls, until it answers."""
    # A message has a role: "user" (you), "assistant" (the model) or "tool" (a result).
    messages = [{"role": "user", "content": "What is the weather in Beijing?"}]
    print("question:", messages[0]["content"])
    for _ in range(10):  # a limit, in case the model never stops calling tools
        # The server remembers nothing, so every request carries the whole conversation, and a
        # description of each tool (tools/weather.py). "auto": the model decides whether to use one.
        completion = client.chat.completions.create(
            model=model, messages=messages, tools=TOOLS, tool_choice="auto",
            max_completion_tokens=4096,  # includes thinking; the platform's default is low
        )  # fmt: skip
        message = completion.choices[0].message

        # Keep the model's message. Some servers reject null fields, or a message without content.
        messages.append({"content": "", **message.model_dump(exclude_none=True)})
        if not message.tool_calls:
            print("answer:  ", message.content)
            break

        # The model cannot run anything. It names a function and writes the arguments as JSON;
        # run_tool (tools/__init__.py) checks them and calls it. An error becomes a result, too.
        for call in message.tool_calls:
            print("call:    ", call.function.name, call.function.arguments)
            result = json.dumps(run_tool(call.function.name, call.function.arguments))
            print("result:  ", result)
            # Each call needs one "tool" message; the id says which call it belongs to.
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    else:
        print("(no answer in 10 requests)")


def lesson_2(client, model):
    """Streaming: the same loop, with the answer as it is written."""
    # The price: text and calls arrive in fragments. Here the model makes two calls at once.
    messages = [{"role": "user", "content": "What is the weather in New York, and 15 * 23.5?"}]
    print("question:", messages[0]["content"])
    for _ in range(10):
        stream = client.chat.completions.create(
            model=model, messages=messages, tools=TOOLS, tool_choice="auto",
            max_completion_tokens=4096, stream=True,
        )  # fmt: skip
        message = {"role": "assistant", "content": ""}
        calls = {}  # for each index, the call as far as it has arrived
        for chunk in stream:
            if not chunk.choices:  # the last chunk may have only token counts
                continue
            delta = chunk.choices[0].delta  # what this chunk adds to the message
            if delta.content:
                print(delta.content, end="|", flush=True)  # "|" shows where a fragment ends
                message["content"] += delta.content
            # Thinking models send their reasoning in a field of its own, and expect it back.
            if getattr(delta, "reasoning_content", None):
                thoughts = message.get("reasoning_content", "")
                message["reasoning_content"] = thoughts + delta.reasoning_content
            # The first fragment of a call has its id and name, the later ones add arguments.
            for part in delta.tool_calls or []:
                if part.index not in calls:
                    print("\ncall:    ", part.function.name, end=" ")
                    function = {"name": part.function.name, "arguments": ""}
                    calls[part.index] = {"id": part.id, "type": "function", "function": function}
                print(part.function.arguments or "", end="|", flush=True)
                calls[part.index]["function"]["arguments"] += part.function.arguments or ""
        print()
        if calls:
            message["tool_calls"] = list(calls.values())
        messages.append(message)
        if not calls:
            break
        for call in calls.values():
            result = json.dumps(run_tool(call["function"]["name"], call["function"]["arguments"]))
            print("result:  ", result)
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})


def lesson_3(client, model):
    """Manual parsing: the loop for a server that returns raw text."""
    # So far the server has parsed the calls out of the text. Here you do that yourself, through
    # /completions: a server that you host may have that route, Moonshot's platform does not.
    messages = [{"role": "user", "content": "What is sqrt(2) * (3 + 4) ** 2?"}]
    print("question:", messages[0]["content"])
    for _ in range(10):
        # Conversation and tools become one text, in the format that Kimi-K2 was trained on.
        prompt = render_prompt(messages, TOOLS)
        print("prompt:   ..." + prompt[-107:])  # it is long: only its end
        completion = client.completions.create(
            model=model, prompt=prompt, max_tokens=4096,  # by default, it stops after 16 tokens
            stop=["<|im_end|>"],  # the marker that ends a message
            extra_body={"skip_special_tokens": False},  # keep the markers <|...|> in the text
        )  # fmt: skip
        print("text:    ", completion.choices[0].text)

        # Separate the text from the calls, which are between the markers.
        content, calls = parse(completion.choices[0].text)
        messages.append({"role": "assistant", "content": content, "tool_calls": calls})
        if not calls:
            break
        for call in calls:
            result = json.dumps(run_tool(call["function"]["name"], call["function"]["arguments"]))
            print("result:  ", result)
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})


def lesson_4(client, model):
    """run_loop: all of this in one function, in any mode."""
    # It also handles what the lessons leave out: cut streams, output limits, malformed calls, and
    # markers that the server should have parsed. Mode "anthropic" uses Anthropic's API format,
    # which Moonshot offers too; the client and the conversation stay the same.
    messages = []
    for city, mode in (("Paris", "non-streaming"), ("London", "streaming"), ("Tokyo", "anthropic")):
        messages.append({"role": "user", "content": f"What is the weather in {city}?"})
        print("question:", messages[-1]["content"])
        print("answer:  ", run_loop(client, model, messages, mode=mode))
    print("history: ", len(messages), "messages:", *[m["role"] for m in messages[:5]], "...")


# The rest of this file is the command line around the lessons.
LESSONS = (lesson_1, lesson_2, lesson_3, lesson_4)


def tour(client, model):
    """Run the lessons; skip one whose route this server does not have."""
    for number, lesson in enumerate(LESSONS, 1):
        print(f"\n----- Lesson {number}. {lesson.__doc__}")
        try:
            lesson(client, model)
        except Exception as error:
            # In lesson 1, a 404 means that the model or the base URL is wrong.
            if getattr(error, "status_code", None) != 404 or lesson is lesson_1:
                raise
            print("(Skipped from here: this server lacks the route. --offline runs everything.)")


def main(argv=None):
    parser = flag_parser(__doc__.split("\nTo use")[0], "all")
    parser.add_argument("--prompt", help="your own question, instead of the lessons")
    parser.add_argument("--temperature", type=float, help="default: the server's own")
    parser.add_argument("--max-tokens", type=int, help="output tokens per reply; default: 4096")
    args = parser.parse_args(argv)
    highest = 0.6 if args.mode == "anthropic" else 2.0  # see tools/anthropic_format.py
    if args.prompt is not None and not args.prompt.strip():
        parser.error("--prompt must not be empty")
    if args.max_tokens is not None and args.max_tokens < 1:
        parser.error("--max-tokens must be at least 1")
    if args.temperature is not None and not 0 <= args.temperature <= highest:
        parser.error(f"--temperature must be from 0 to {highest} in this mode")
    lessons = args.mode == "all" and args.prompt is None
    if lessons and (args.temperature is not None or args.max_tokens):
        parser.error("--temperature and --max-tokens need --prompt or a single --mode")

    def show(call, result):
        print("\ncall:    ", call["function"]["name"], call["function"]["arguments"])
        print("result:  ", json.dumps(result))

    def run(settings):
        with connect(settings) as (client, model):
            if lessons:
                return tour(client, model)
            question = args.prompt or "What is the weather in New York, and 15 * 23.5?"
            messages = [{"role": "user", "content": question}]
            run_loop(
                client, model, messages, "non-streaming" if args.mode == "all" else args.mode,
                on_text=lambda text: print(text, end=""), on_tool=show,
                max_tokens=args.max_tokens or 4096, temperature=args.temperature,
            )  # fmt: skip
            print()

    return run_script(run, args)


if __name__ == "__main__":
    raise SystemExit(main())
