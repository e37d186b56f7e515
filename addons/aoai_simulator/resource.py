"""One simulated AOAI resource: its deployments, limits, keys and stored responses. No I/O, no clock.

A request goes through three steps, between which the server may let a fault strike: `begin` reads it,
`reply` lets the limiter decide and answers, `finish` books what was really used.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aoai_gateway.config.models import SimulatedEndpoint
from aoai_simulator import (
    chat,
    completions,
    embeddings,
    limits,
    media,
    message_requests,
    messages,
    models,
    replies,
    responses,
)
from aoai_simulator.authorization import unauthorised
from aoai_simulator.conversation import sent_items
from aoai_simulator.deployments import Deployment, models_of
from aoai_simulator.limits import Headers
from aoai_simulator.messages import Claude
from aoai_simulator.replies import InvalidError, Refused, Reply, Upgrade, Whole
from aoai_simulator.requests import Ask, Request, Sent, read_ask, read_object, read_sent
from aoai_simulator.sessions import ResponseSession, Secret, Sessions, handshake, no_handshake
from aoai_simulator.settings import Settings
from aoai_simulator.stored_responses import StoredResponses, not_found
from aoai_simulator.targets import CLAUDE, MEDIA, RESPONSES_SOCKET, Target, is_v1_with_date, parse_target
from aoai_simulator.things import Things
from aoai_simulator.tokenizer import Tokenizer

WITH_MODEL = ("assistants", "threads", "video", "videos")
"""Families in which `model` is a deployment."""

MEDIA_COST = 16
"""Tokens that the limiter reserves for a call without a completion."""

_FRONT_DOOR: Headers = (
    ("cache-control", "no-cache, must-revalidate"),
    ("access-control-allow-origin", "*"),
    ("strict-transport-security", "max-age=31536000; includeSubDomains; preload"),
    ("x-content-type-options", "nosniff"),
)


@dataclass(slots=True)
class Call:
    """A request that was understood. `deployment` and `ask` are None for stored responses and models.

    `request` is kept where the body is read when the call is answered.
    """

    target: Target
    deployment: Deployment | None = None
    ask: Ask | None = None
    reservation: limits.Reservation | None = None
    limit_headers: Headers = ()
    spillover: str | None = None
    """The deployment that the request names to answer if the provisioned one is full."""
    spilled: Headers = ()
    """The headers that say so, once it has answered."""
    request: Request | None = None
    sent: Sent | None = None
    secret: Secret | None = None


class Resource:
    """A simulated AOAI resource. `randomness` draws ids; the same source gives the same ids."""

    def __init__(
        self,
        name: str,
        spec: SimulatedEndpoint,
        key: str,
        *,
        settings: Settings,
        randomness: random.Random,
        tokenizer: Tokenizer,
    ) -> None:
        self.name = name
        self.region = spec.region
        self.seed = spec.seed
        self.key = key
        self.deployments = {name: Deployment(name, item) for name, item in spec.deployments.items()}
        self._by_lower_case = {name.lower(): each for name, each in self.deployments.items()}
        self._settings = settings
        self._randomness = randomness
        self._tokenizer = tokenizer
        self._stored = StoredResponses()
        self._claude = Claude(tokenizer)
        self.things = Things(randomness, self.deployment, self._line)
        self.sessions = Sessions(randomness, spec.seed, tokenizer)
        self._secret = hashlib.sha256(f"{spec.seed}:{name}".encode()).digest()

    def __repr__(self) -> str:
        return f"Resource({self.name!r}, {list(self.deployments)})"

    def reset(self) -> None:
        """Empty all windows and forget the stored responses."""
        self._stored.clear()
        self._claude.reset()
        self.things.clear()
        self.sessions.clear()
        for deployment in self.deployments.values():
            deployment.state = deployment.limits.empty()

    def deployment(self, name: str) -> Deployment | None:
        """Find a deployment; as on Azure, the case of its name does not count."""
        return self._by_lower_case.get(name.lower())

    def _serving(self, name: object, operation: str) -> Deployment | Whole:
        """Find the deployment of a call, or answer that it does not exist, or that its model cannot do it."""
        deployment = self.deployment(name) if isinstance(name, str) else None
        if deployment is None:
            return replies.deployment_not_found()
        if not models.supports(deployment.spec.model, operation):
            return replies.operation_not_supported(operation, deployment.spec.model)
        return deployment

    def begin(self, request: Request, unix_time: float) -> Call | Whole:
        """Understand a request, or answer with the error that AOAI would. Times are in seconds."""
        secret = self.sessions.secret(request.headers, unix_time)
        if secret is None:
            refused = unauthorised(request.target, request.headers, self.key, unix_time)
            if refused is not None:
                return refused
        target = parse_target(request.method, request.target)
        if target is None:
            dated = is_v1_with_date(request.target)
            return replies.version_not_supported() if dated else replies.resource_not_found()
        if target.operation == "responses" and target.date < responses.SINCE:
            return responses.too_old()
        if target.operation == "realtime" and not target.parts:
            return self._handshake(target, request, secret)
        if target.operation == RESPONSES_SOCKET:
            accepted = handshake(request.headers)
            return no_handshake() if accepted is None else Call(target, request=request)
        if self.sessions.knows(request.method, target.parts):
            return self._beside_session(target, request)
        if target.parts and not self.things.knows(target.method, target.parts):
            return replies.resource_not_found()
        if target.operation == "models" or target.item is not None or target.parts:
            return Call(target, request=request)
        if target.operation in MEDIA:
            return self._media(target, request)
        body = read_object(request.body)
        if isinstance(body, Whole):
            return body
        name = target.deployment if target.deployment is not None else body.get("model")
        if not isinstance(name, str):
            message = "Missing required parameter: 'model'."
            return replies.invalid_request(message, param="model", code="missing_required_parameter")
        deployment = self._serving(name, target.operation)
        if isinstance(deployment, Whole):
            return deployment
        if target.operation in responses.SIDES:
            return Call(target, deployment, request=request)
        missing = self.things.missing(request.body) if target.operation == "responses" else None
        if missing is not None:
            return missing
        try:
            if target.operation in CLAUDE:
                read = self._claude.read(target, request.headers, body, deployment.spec.model)
                return Call(target, deployment, read)
            earlier = self._stored.conversation(body.get("previous_response_id"))
            ask = read_ask(target, body, deployment.spec.model, self._tokenizer, earlier)
            return Call(target, deployment, ask, spillover=request.headers.get("x-ms-spillover-deployment"))
        except InvalidError as invalid:
            return invalid.reply

    def reply(self, call: Call, now: float, unix_time: float) -> Reply:
        """Answer a call at monotonic time `now`; the limiter decides first."""
        deployment, ask = call.deployment, call.ask
        if call.target.operation == "realtime":
            return self._realtime(call, now, unix_time)
        if call.target.operation == RESPONSES_SOCKET and call.request is not None:
            return Upgrade(handshake(call.request.headers) or (), ResponseSession())
        if target_parts := call.target.parts:
            return self._thing(call, target_parts, unix_time)
        if deployment is not None and ask is None:
            return self._media_reply(call, deployment, now, unix_time)
        if call.target.operation == message_requests.COUNT and ask is not None:
            return messages.count(ask.prompt_tokens)
        if call.target.operation == "models":
            return models_of(self.deployments.values(), call.target)
        if deployment is None or ask is None:
            return self._stored.answer(call.target)
        decision, deployment = self._ask_limiter(call, deployment, ask.cost, now)
        if call.target.operation in CLAUDE:
            call.limit_headers = messages.limit_headers(decision.headers, unix_time)
        if not decision.admitted:
            return replies.refusal(self.refused(call), decision)
        try:
            return self._rejection(deployment, ask) or self._answer(deployment, ask, unix_time)
        except InvalidError as invalid:
            return invalid.reply

    def _ask_limiter(
        self, call: Call, deployment: Deployment, cost: int, now: float
    ) -> tuple[limits.Decision, Deployment]:
        """Ask the limiter of a deployment, or of the one to which the call spills over. Returns it, too."""
        decision = deployment.admit(cost, now)
        other = self.deployment(call.spillover) if call.spillover is not None else None
        provisioned = deployment.spec.provisioned_tokens_per_minute is not None
        if not decision.admitted and provisioned and other is not None:
            call.spilled = (
                ("x-ms-spillover-from-deployment", deployment.name),
                ("x-ms-spillover-error", "429"),
            )
            call.deployment = deployment = other
            decision = deployment.admit(cost, now)
        call.reservation, call.limit_headers = decision.reservation, decision.headers
        return decision, deployment

    def _handshake(self, target: Target, request: Request, secret: Secret | None) -> Call | Whole:
        """Understand a WebSocket's handshake; a session of transcription may name no deployment."""
        accepted = handshake(request.headers)
        if accepted is None:
            return no_handshake()
        name = target.deployment or (secret.deployment if secret is not None else None)
        deployment = self._serving(name, "realtime") if name is not None else None
        if isinstance(deployment, Whole):
            return deployment
        return Call(target, deployment, request=request, secret=secret)

    def _beside_session(self, target: Target, request: Request) -> Call | Whole:
        name = self.sessions.asked(request)
        if name is not None and self.deployment(name) is None:
            return replies.deployment_not_found()
        return Call(target, request=request)

    def _realtime(self, call: Call, now: float, unix_time: float) -> Reply:
        """Open a session, or answer a call beside one."""
        request, deployment = call.request, call.deployment
        assert request is not None
        if call.target.parts:
            return self.sessions.answer(call.target.parts, request, int(unix_time))
        if deployment is not None:
            decision = deployment.admit(MEDIA_COST, now)
            call.limit_headers = decision.headers
            if not decision.admitted:
                return replies.refusal(self.refused(call), decision)
        accepted = handshake(request.headers)
        assert accepted is not None
        model = deployment.name if deployment is not None else "gpt-realtime"
        length = self._settings.completion_tokens
        return self.sessions.open(accepted, model, call.target.api_version, call.secret, length)

    def respond_in_session(self, call: Call, body: bytes, now: float, unix_time: float) -> Reply:
        """Answer a message of a session of responses, which has the form of a request's body."""
        assert call.request is not None
        asked = self.begin(Request("POST", "/openai/v1/responses", call.request.headers, body), unix_time)
        if isinstance(asked, Whole):
            return asked
        reply = self.reply(asked, now, unix_time)
        self.finish(asked, reply.tokens if not isinstance(reply, Upgrade) else 0, now)
        return reply

    def book(self, call: Call, tokens: int, now: float) -> bool:
        """Take tokens of a deployment for a session, or for a response in it. Whether it had them."""
        deployment = call.deployment
        if deployment is None:
            return True
        decision = deployment.admit(tokens, now)
        call.limit_headers = decision.headers
        return decision.admitted

    def _media(self, target: Target, request: Request) -> Call | Whole:
        """Understand a call for audio or images."""
        sent = read_sent(request)
        if isinstance(sent, Whole):
            return sent
        name = target.deployment if target.deployment is not None else sent.fields.get("model")
        deployment = self._serving(name, target.operation)
        return deployment if isinstance(deployment, Whole) else Call(target, deployment, sent=sent)

    def _media_reply(self, call: Call, deployment: Deployment, now: float, unix_time: float) -> Reply:
        """Answer a call for audio or images, or beside a response, if the limiter lets it in."""
        decision = deployment.admit(MEDIA_COST, now)
        call.reservation, call.limit_headers = decision.reservation, decision.headers
        if not decision.admitted:
            return replies.refusal(self.refused(call), decision)
        if call.sent is not None:
            return media.answer(call.target.operation, call.sent, int(unix_time), deployment.spec.model)
        assert call.request is not None
        made = self.made(deployment.name, unix_time)
        return responses.side(call.target.operation, len(call.request.body) // 4, made)

    def _thing(self, call: Call, parts: tuple[str, ...], unix_time: float) -> Reply:
        """Answer a call for a file, a thread or another stored thing (`things`)."""
        request = call.request
        assert request is not None
        if parts[0] in WITH_MODEL:
            sent = read_sent(request)
            model = sent.fields.get("model") if isinstance(sent, Sent) else None
            if isinstance(model, str) and self.deployment(model) is None:
                return replies.deployment_not_found()
        return self.things.answer(request, parts, int(unix_time))

    def finish(self, call: Call, used: int, now: float) -> None:
        """Book the tokens that a call really took, once."""
        if call.reservation is not None and call.deployment is not None:
            deployment = call.deployment
            deployment.state = limits.settle(
                deployment.limits,
                deployment.state,
                call.reservation,
                used,
                now,
                grows=call.target.operation in CLAUDE,
            )
            call.reservation = None

    def refused(self, call: Call) -> Refused:
        """The words for a 429's message."""
        deployment = call.deployment
        return Refused(
            deployment.name if deployment else "",
            deployment.spec.model if deployment else "",
            self.region,
            call.target.operation,
            call.target.api_version,
        )

    def made(self, deployment: str, unix_time: float) -> responses.Made:
        """The identity of a new response."""
        return responses.Made(deployment, self._ident(), int(unix_time), self._secret)

    def headers(self, call: Call | None, status: int) -> Headers:
        """Return the headers of every response, beside the answer's own."""
        ident = f"{self._randomness.getrandbits(128):032x}"
        guid = f"{ident[:8]}-{ident[8:12]}-{ident[12:16]}-{ident[16:20]}-{ident[20:]}"
        common: list[tuple[str, str]] = [
            *_FRONT_DOOR,
            ("apim-request-id", guid),
            ("x-ms-client-request-id", guid),
            ("x-request-id", guid[::-1]),
            ("x-ms-region", self.region),
        ]
        if call is not None and call.target.operation in CLAUDE:
            common.append(("request-id", f"req_{ident[:24]}"))
        common += call.spilled if call else ()
        deployment = call.deployment if call else None
        if call is None or deployment is None or status != 200:
            return tuple(common)
        if call.target.operation == "responses":
            common.append(("x-ms-served-model", deployment.snapshot))
        else:
            common.append(("x-ms-deployment-name", deployment.name))
        common += [("x-ms-rai-invoked", "true"), ("x-accel-buffering", "no")]
        return (*common, *call.limit_headers)

    def _rejection(self, deployment: Deployment, ask: Ask) -> Whole | None:
        """The 400s that come after admission: they count against the limits like any call."""
        if completions.PROMPT_FILTER_TRIGGER in ask.text:
            return replies.content_filtered()
        context = models.context_length(deployment.spec.model)
        if ask.prompt_tokens > context:
            param = {"chat/completions": "messages", "completions": "prompt"}.get(ask.operation, "input")
            return replies.context_length_exceeded(context, ask.prompt_tokens, param)
        if ask.operation != "responses":
            return None
        if ask.body.get("background") is True and ask.body.get("store") is False:
            return replies.invalid_request(
                "Background responses require 'store' to be true.", param="background"
            )
        previous = ask.body.get("previous_response_id")
        if previous is not None and str(previous) not in self._stored:
            return not_found(str(previous), previous=True)
        return responses.foreign_reasoning(ask, self._secret)

    def _natural_length(self, ask: Ask) -> int | None:
        share, most = self._settings.completion_share, ask.sampling.max_tokens
        if share is None or most is None:
            return self._settings.completion_tokens
        return max(1, round(share * most))

    def _answer(self, deployment: Deployment, ask: Ask, unix_time: float) -> Reply:
        model = deployment.spec.model
        if ask.operation == "embeddings":
            return embeddings.whole(ask, model)
        made = completions.complete(ask, self.seed, self._natural_length(ask), self._tokenizer)
        if ask.operation == message_requests.OPERATION:
            return self._claude.answer(ask, made[0], deployment.name, deployment.snapshot, self._ident())
        if ask.operation == "responses":
            return self._respond(deployment, ask, made[0], unix_time)
        what = (ask, made, deployment.snapshot, self._ident(), int(unix_time))
        if ask.operation == "chat/completions" and ask.body.get("store") is True:
            self.things.keep("chat/completions", stored := json.loads(chat.whole(*what).body))
            path = f"chat/completions/{stored['id']}/messages"
            for number, message in enumerate(ask.body["messages"]):
                self.things.keep(path, {"id": f"{stored['id']}-{number}", **message})
        return chat.stream(*what, late_filter=self._settings.late_filter) if ask.stream else chat.whole(*what)

    def _line(self, url: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        """Answer a line of a batch, which has limits of its own."""
        path = f"/openai{url}" if url.startswith("/v1/") else f"/openai/v1{url}"
        asked = {name: value for name, value in body.items() if name != "stream"}
        call = self.begin(Request("POST", path, {"api-key": self.key}, replies.compact(asked)), 0.0)
        reply: Reply = call if isinstance(call, Whole) else replies.resource_not_found()
        if not isinstance(call, Whole) and call.deployment is not None and call.ask is not None:
            reply = self._rejection(call.deployment, call.ask) or self._answer(call.deployment, call.ask, 0.0)
        assert isinstance(reply, Whole)
        return reply.status, json.loads(reply.body)

    def _respond(
        self, deployment: Deployment, ask: Ask, completion: completions.Completion, unix_time: float
    ) -> Reply:
        made = self.made(deployment.name, unix_time)
        stream = None
        if ask.stream:
            stream = responses.stream(ask, completion, made, done_marker=self._settings.responses_done)
        if ask.body.get("store") is not False:
            stored = responses.body(ask, completion, made)
            self._stored.put(stored, ask.body.get("input"), stream if stored["background"] else None)
            self.things.remember(
                ask.body.get("conversation"), (*sent_items(ask.body), *stored["output"]), int(unix_time)
            )
        return stream or responses.whole(ask, completion, made)

    def _ident(self) -> str:
        return f"{self._randomness.getrandbits(160):040x}"
