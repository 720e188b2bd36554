"""A weather tool with simulated data, to show the shape of a real one.

This file imports nothing from the package, so it can be copied by itself.
"""

from typing import Any

# city: (condition, degrees Celsius, humidity in percent). Invented, and the same on every run.
CITIES: dict[str, tuple[str, float, int]] = {
    "Beijing": ("sunny", 22, 40), "Berlin": ("cloudy", 14, 65), "Cairo": ("sunny", 33, 20),
    "London": ("rainy", 12, 80), "Mumbai": ("humid", 31, 85), "Paris": ("cloudy", 16, 60),
    "New York": ("partly cloudy", 18, 55), "San Francisco": ("foggy", 15, 75),
    "Shanghai": ("light rain", 24, 72), "Singapore": ("thunderstorms", 30, 84),
    "Sydney": ("windy", 20, 50), "Tokyo": ("clear", 19, 58),
}  # fmt: skip

WEATHER_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather of a city. The data is simulated.",
        "parameters": {
            "type": "object",
            "required": ["city"],
            "properties": {
                "city": {"type": "string", "description": "City name in English, e.g. Beijing"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"],
                         "description": "Unit of the temperature; celsius if left out"},
            },
        },
    },
}  # fmt: skip


def get_weather(city: str, unit: str = "celsius") -> dict[str, Any]:
    """The simulated weather of `city`, whose case does not matter.

    `unit` is "celsius" or "fahrenheit". Returns city, condition, temperature (in `unit`), unit,
    humidity (percent) and "simulated": True, or {"error": the possible values}. Never raises.
    """
    name = {each.casefold(): each for each in CITIES}.get(str(city).strip().casefold())
    if name is None:
        return {"error": f"No weather for {city!r}. Known cities: {', '.join(CITIES)}."}
    if unit not in ("celsius", "fahrenheit"):
        return {"error": f"Unknown unit {unit!r}. Use celsius or fahrenheit."}
    condition, celsius, humidity = CITIES[name]
    temperature = round(celsius if unit == "celsius" else celsius * 9 / 5 + 32, 1)
    weather = {"city": name, "condition": condition, "temperature": temperature, "unit": unit}
    return {**weather, "humidity": humidity, "simulated": True}
