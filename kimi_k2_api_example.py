"""Tool calling with Kimi-K2 in four lessons: your function and the loop, streaming, manual parsing,
and the ready-made loop. Read them, or run them (the last two commands ask one question instead):

    python kimi_k2_api_example.py --offline     no key: a mock server on this machine answers
    python kimi_k2_api_example.py               with your key in MOONSHOT_API_KEY
    python kimi_k2_api_example.py --prompt "Is it warmer in Cairo or in Sydney?"
    python kimi_k2_api_example.py --mode anthropic --temperature 0.6

A language model only writes text. With tool calling, you describe your functions to it. When it
needs one, it replies with the function's name and arguments; your program runs the function and
sends back the result, and the model uses it to answer. Moonshot's API is compatible with OpenAI's,
so you use OpenAI's client with another address.

To use a lesson in your own program, create a file next to the tools/ folder. Paste these lines,
then the lesson, and end with: lesson_1(client, model)

import json

from openai import OpenAI
from tools import TOOLS, run_tool
from tools.endpoint import connect
from tools.kimi_format import parse, render_prompt
from tools.loop import run_loop

# By hand: client = OpenAI(api_key="sk-...", base_url="https://api.moonshot.ai/v1")
#          model = "kimi-k3"
# connect() reads MOONSHOT_API_KEY, MOONSHOT_BASE_URL and .env, waits out rate limits, and
# picks a model. (No key? Run "python -m tools.offline" and follow its instructions.)
client, model = connect()
"""

import json
import sys

from tools import TOOLS, run_tool
from tools.kimi_format import parse, render_prompt
from tools.loop import run_loop
from tools.script import flag_parser, prepared, run_script


def lesson_1(client, model):
    """Your function and the loop: the model calls it, you run it, the model answers."""

    def get_weather(city):
        weather = {"condition": "sunny", "temperature": 22, "unit": "celsius", "humidity": 40}
        return {"city": city, **weather}

    # All that the model sees of a function is this description, in JSON Schema.
    weather_tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the current weather of a city.",
            "parameters": {
                "type": "object",
                "required": ["city"],
                "properties": {"city": {"type": "string", "description": "City name in English"}},
            },
        },
    }
    # Roles: "system" (your instructions), "user", "assistant" (the model), "tool" (a result).
    messages = [
        {"role": "system", "content": "Answer in one sentence."},
        {"role": "user", "content": "What is the weather in Beijing?"},
    ]
    for _ in range(10):  # a limit, in case the model never stops calling the function
        # The server remembers nothing: every request carries the whole conversation and the tools.
        # tool_choice="auto" lets the model decide whether to call a tool.
        completion = client.chat.completions.create(
            model=model, messages=messages, tools=[weather_tool], tool_choice="auto"
        )
        message = completion.choices[0].message
        # Append the message as a dict. Some servers reject null fields, or a missing content.
        messages.append({"content": "", **message.model_dump(exclude_none=True)})
        if not message.tool_calls:
            break
        # The model only names a function and writes arguments, in JSON. (Lesson 2 checks them.)
        for call in message.tool_calls:
            result = json.dumps(get_weather(**json.loads(call.function.arguments)))
            # Send one "tool" message per call; the id links it to its call.
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    for each in messages:
        print(json.dumps(each, ensure_ascii=False))
    if messages[-1]["role"] == "tool" or not messages[-1]["content"]:
        print("(no answer: the reply was empty, or the tenth one was still a call)")


def lesson_2(client, model):
    """Streaming: the same loop, but the answer appears while it is being written."""
    # TOOLS has descriptions like the one in lesson 1, of get_weather and calculate (see tools/).
    # run_tool checks the arguments and runs the function; an error becomes a result for the model.
    messages = [{"role": "user", "content": "What is the weather in New York, and 15 * 23.5?"}]
    print("question:", messages[0]["content"])
    for _ in range(10):
        stream = client.chat.completions.create(
            model=model, messages=messages, tools=TOOLS, tool_choice="auto", stream=True
        )
        message = {"role": "assistant", "content": ""}
        calls = {}  # by index: what has arrived of each call
        # Text and calls arrive in fragments that you must join. This question leads to two calls.
        for chunk in stream:
            if not chunk.choices:  # the last chunk may hold only the token counts
                continue
            delta = chunk.choices[0].delta  # what this chunk adds to the message
            if delta.content:
                print(delta.content, end="|", flush=True)  # "|" shows where a fragment ends
                message["content"] += delta.content
            # Thinking models send their reasoning in this field. Send it back, even if it is empty.
            thought = getattr(delta, "reasoning_content", None)
            if thought is not None:
                message["reasoning_content"] = message.get("reasoning_content", "") + thought
            # The first fragment of a call has its id and name; later ones add to its arguments.
            for part in delta.tool_calls or []:
                if part.index not in calls:
                    print("\ncall:    ", part.function.name, end=" ")
                    function = {"name": part.function.name, "arguments": ""}
                    calls[part.index] = {"id": part.id, "type": "function", "function": function}
                print(part.function.arguments or "", end="|", flush=True)
                calls[part.index]["function"]["arguments"] += part.function.arguments or ""
        print()
        messages.append(message)
        if not calls:
            break
        message["tool_calls"] = list(calls.values())
        for call in calls.values():
            result = json.dumps(run_tool(call["function"]["name"], call["function"]["arguments"]))
            print("result:  ", result)
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    if messages[-1]["role"] == "tool" or not messages[-1]["content"]:
        print("(no answer: the reply was empty, or the tenth one was still a call)")


def lesson_3(client, model):
    """Manual parsing: the same loop, where the server returns raw text."""
    # So far the server has parsed the calls out of the text. Here you do that yourself, through
    # /completions: a server that you host may have that route; Moonshot's platform does not.
    messages = [{"role": "user", "content": "What is sqrt(2) * (3 + 4) ** 2?"}]
    shown = 0  # how much of the prompt has been printed
    for _ in range(10):
        # Conversation and tools become one text, in the format that Kimi-K2 was trained on: to the
        # model, tools are nothing but text. (Without a system message, Kimi's default is added.)
        prompt = render_prompt(messages, TOOLS)
        print("prompt:  ", prompt[shown:])  # after the first time, only what is new
        shown = len(prompt)
        completion = client.completions.create(
            model=model,
            prompt=prompt,
            max_tokens=4096,  # by default, it stops after 16 tokens
            stop=["<|im_end|>"],  # the marker that ends a message
            # A field that OpenAI's client does not know: keep the markers <|...|> in the text.
            extra_body={"skip_special_tokens": False},
        )
        text = completion.choices[0].text
        print("text:    ", text)
        content, calls = parse(text)  # the calls are what stands between the markers
        messages.append({"role": "assistant", "content": content, "tool_calls": calls})
        if not calls:
            break
        for call in calls:
            result = json.dumps(run_tool(call["function"]["name"], call["function"]["arguments"]))
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    if messages[-1]["role"] == "tool" or not messages[-1]["content"]:
        print("(no answer: the reply was empty, or the tenth one was still a call)")


def lesson_4(client, model):
    """run_loop: the same loop as one function, for the three ways above and a fourth."""
    # Use mode "non-streaming" if only the finished answer matters, "streaming" if a person waits,
    # "manual" for your own engine if it does not parse calls (left out here), and "anthropic" for a
    # server that speaks Anthropic's API. The conversation is the same in all of them.
    # run_loop also handles what the lessons leave out: cut streams, output limits, malformed calls.
    # For the tool of lesson 1, add tools=[weather_tool], functions={"get_weather": get_weather}
    messages = []
    for city, mode in (("Paris", "non-streaming"), ("London", "streaming"), ("Tokyo", "anthropic")):
        messages.append({"role": "user", "content": f"What is the weather in {city}?"})
        print(f"question ({mode}):", messages[-1]["content"])
        # It raises KimiError or openai.OpenAIError; explain() in tools/errors.py tells what to do.
        print("answer:  ", run_loop(client, model, messages, mode=mode))
    print("history: ", *[message["role"] for message in messages])


# The rest of this file is the command line around the lessons.
LESSONS = {lesson_1: "", lesson_2: "", lesson_3: "/completions", lesson_4: "/messages"}


def tour(client, model):
    """Run the lessons; skip one whose route, as named above, this server does not have."""
    for number, (lesson, route) in enumerate(LESSONS.items(), 1):
        print(f"\n----- Lesson {number}. {lesson.__doc__ or ''}")
        try:
            lesson(client, model)
        except Exception as error:
            if getattr(error, "status_code", None) != 404 or not route:
                raise  # in lessons 1 and 2, a 404 means a wrong model or base URL
            print(f"(Skipped: this server has no {route}. Add --offline to see it.)")


def show(call, result):
    print("\ncall:    ", call["function"]["name"], call["function"]["arguments"])
    print("result:  ", json.dumps(result))


def main(argv=None):
    return run_script(run, argv)


def run(argv):
    parser = flag_parser((__doc__ or "").split("\nTo use")[0], "all")
    parser.add_argument("--prompt", type=str.strip, help="your own question instead of the lessons")
    parser.add_argument("--temperature", type=float, help="default: the server's own")
    args = parser.parse_args(argv)
    lessons = args.mode == "all" and args.prompt is None
    if args.prompt == "":
        parser.error("--prompt must not be empty")
    if args.temperature is not None and not 0 <= args.temperature <= 2:
        parser.error("--temperature must be from 0 to 2")
    if lessons and (args.temperature is not None or args.extra_body is not None):
        parser.error("--temperature and --extra-body need --prompt or a single --mode")
    with prepared(args) as (client, model):
        if lessons:
            return tour(client, model)
        question = args.prompt or "What is the weather in New York, and 15 * 23.5?"
        messages = [{"role": "user", "content": question}]
        mode = "non-streaming" if args.mode == "all" else args.mode
        options = {"temperature": args.temperature, "extra_body": args.extra_body}
        run_loop(client, model, messages, mode, on_text=sys.stdout.write, on_tool=show, **options)
        print()


if __name__ == "__main__":
    raise SystemExit(main())
