"""`/admin/keys`: make, see, change, top up and revoke API keys, as `router keys` does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TypeVar

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from msgspec import UNSET, Struct, UnsetType
from pydantic import SecretStr

from router.access.bounds import check_payment
from router.access.described import described, usd_number
from router.access.keys import OPERATOR, Keys, NewKey, end_of
from router.api.admin import check_admin
from router.api.private import private_json
from router.catalog.snapshot import Limits
from router.errors import BadRequest
from router.ledger.keystore import KeyChange
from router.ledger.money import usd_to_nusd
from router.ledger.rows import utc_text

T = TypeVar("T")
BODY_BYTES = 64 * 1024


class _Bounds(Struct, forbid_unknown_fields=True, kw_only=True):
    """What may be said of a key when it is made, and later; null takes a bound away."""

    rpm: int | UnsetType | None = UNSET
    tpm: int | UnsetType | None = UNSET
    concurrency: int | UnsetType | None = UNSET
    budget_day_usd: Decimal | UnsetType | None = UNSET
    budget_month_usd: Decimal | UnsetType | None = UNSET
    models: tuple[str, ...] | UnsetType = UNSET
    expires: date | UnsetType | None = UNSET


class _New(_Bounds, forbid_unknown_fields=True, kw_only=True):
    name: str
    credit_usd: Decimal | None = None


class _Change(_Bounds, forbid_unknown_fields=True, kw_only=True):
    name: str | UnsetType = UNSET


class _Topup(Struct, forbid_unknown_fields=True):
    usd: Decimal
    external_id: str


def key_routes(
    keys: Keys, admin_key: SecretStr | None, now: Callable[[], datetime]
) -> list[HTTPRouteHandler]:
    """Return the handlers; without an admin key they answer 404, with another one 401."""

    async def shown(key_id: str) -> Response[bytes]:
        key, account = await keys.one(key_id)
        return private_json(described(key, account, utc_text(now().timestamp())))

    @get("/admin/keys")
    async def every(request: Request[Any, Any, Any]) -> Response[bytes]:
        check_admin(request, admin_key)
        moment = utc_text(now().timestamp())
        data = [described(key, account, moment) for key, account in await keys.list()]
        return private_json({"object": "list", "data": data})

    @post("/admin/keys", status_code=200, request_max_body_size=BODY_BYTES)
    async def create(request: Request[Any, Any, Any]) -> Response[bytes]:
        check_admin(request, admin_key)
        wanted = await _body(request, _New)
        text, key = await _valid(lambda: keys.create(_new_key(wanted)))
        made = {"id": key.id, "key": text, "name": key.name}
        return private_json(
            {**made, "credit_usd": usd_number(_given(_nusd(wanted.credit_usd, "credit_usd")))}
        )

    @get("/admin/keys/{key_id:str}")
    async def one(request: Request[Any, Any, Any], key_id: FromPath[str]) -> Response[bytes]:
        check_admin(request, admin_key)
        return await shown(key_id)

    @post("/admin/keys/{key_id:str}", status_code=200, request_max_body_size=BODY_BYTES)
    async def change(request: Request[Any, Any, Any], key_id: FromPath[str]) -> Response[bytes]:
        check_admin(request, admin_key)
        wanted = await _body(request, _Change)
        await _valid(lambda: keys.change(key_id, _key_change(wanted)))
        return await shown(key_id)

    @post("/admin/keys/{key_id:str}/topup", status_code=200, request_max_body_size=BODY_BYTES)
    async def topup(request: Request[Any, Any, Any], key_id: FromPath[str]) -> Response[bytes]:
        check_admin(request, admin_key)
        payment = await _body(request, _Topup)
        try:
            check_payment(payment.external_id)
        except ValueError as fault:
            raise BadRequest(f"{fault}.", param="external_id") from None
        amount = _given(_nusd(payment.usd, "usd")) or 0
        added, balance = await _valid(
            lambda: keys.topup(key_id, amount, source=OPERATOR, external_id=payment.external_id)
        )
        return private_json({"id": key_id, "added": added, "credit_usd": usd_number(balance)})

    @delete("/admin/keys/{key_id:str}", status_code=200)
    async def revoke(request: Request[Any, Any, Any], key_id: FromPath[str]) -> Response[bytes]:
        check_admin(request, admin_key)
        await keys.revoke(key_id)
        return private_json({"id": key_id, "revoked": True})

    return [every, create, one, change, topup, revoke]


async def _body(request: Request[Any, Any, Any], kind: type[T]) -> T:
    """Read the body; a member that is unknown is refused, so that nobody sets what is not theirs to set."""
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except msgspec.ValidationError as fault:
        raise BadRequest(f"{fault}; GET /schema lists the members.", param=_param(str(fault))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("The body is not valid JSON.") from None


def _param(fault: str) -> str | None:
    """Return the member that msgspec's message names."""
    if "unknown field `" in fault:
        return fault.split("unknown field `", 1)[1].split("`", 1)[0]
    if "required field `" in fault:
        return fault.split("required field `", 1)[1].split("`", 1)[0]
    return fault.rpartition("$.")[2].split("`", 1)[0].split("[", 1)[0] if "$." in fault else None


async def _valid(work: Callable[[], Awaitable[T]]) -> T:
    """Do what may find a value that makes no sense."""
    try:
        return await work()
    except ValueError as fault:
        raise BadRequest(f"{fault}.") from None


def _new_key(wanted: _New) -> NewKey:
    return NewKey(
        name=wanted.name,
        credit_nusd=_given(_nusd(wanted.credit_usd, "credit_usd")),
        limits=Limits(concurrency=_given(wanted.concurrency), rpm=_given(wanted.rpm), tpm=_given(wanted.tpm)),
        budget_day_nusd=_given(_nusd(wanted.budget_day_usd, "budget_day_usd")),
        budget_month_nusd=_given(_nusd(wanted.budget_month_usd, "budget_month_usd")),
        models=_given(wanted.models) or (),
        last_day=_given(wanted.expires),
    )


def _key_change(wanted: _Change) -> KeyChange:
    expires = wanted.expires
    return KeyChange(
        name=wanted.name,
        concurrency=wanted.concurrency,
        rpm=wanted.rpm,
        tpm=wanted.tpm,
        models=wanted.models,
        expires_at=end_of(expires) if isinstance(expires, date) else expires,
        budget_day_nusd=_nusd(wanted.budget_day_usd, "budget_day_usd"),
        budget_month_nusd=_nusd(wanted.budget_month_usd, "budget_month_usd"),
    )


def _given(value: T | UnsetType) -> T | None:
    return None if isinstance(value, UnsetType) else value


def _nusd(usd: Decimal | UnsetType | None, param: str) -> int | UnsetType | None:
    if not isinstance(usd, Decimal):
        return usd
    try:
        return usd_to_nusd(str(usd))
    except ValueError as fault:
        raise BadRequest(f"{param}: {fault}.", param=param) from None
