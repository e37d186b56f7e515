"""An Azure OpenAI gateway that lives inside mitmproxy."""
