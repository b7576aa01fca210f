// Written by `cargo xtask generate` from crates/semel-core/judgement; do not edit.

import type { Table } from "./judge.js";

/** draft-ietf-httpapi-idempotency-key-header-07, and any API behind Semel's gateway with the default preset. */
export const ietf: Table = {
  "preset": "ietf",
  "doc": "draft-ietf-httpapi-idempotency-key-header-07, and any API behind Semel's gateway with the default preset.",
  "routes": [
    {"path": "/*", "key": {"header": "Idempotency-Key"}}
  ],
  "budget": {"attempts_max": 8, "elapsed_max_ms": 600000, "attempt_max_ms": 30000, "pause_base_ms": 500, "pause_max_ms": 30000, "window_ms": 86400000, "margin_ms": 600000},
  "replayed": [{"header": {"Idempotent-Replayed": "true"}}],
  "log": {"reference": ["/merchant_reference_id"], "order_id": ["/order_id", "/id"], "tracking_id": ["/tracking_id"]},
  "rules": [
    {"when": {"status": "2xx"}, "verdict": "done", "why": "success", "say": "The API confirmed it.", "rows": "E24 L15"},
    {"when": {"code": "in-flight"}, "verdict": "retry", "why": "in-flight", "say": "The first request with this key is still being processed.", "rows": "Q10 L2"},
    {"when": {"code": "outcome-unknown"}, "verdict": "undecided", "why": "outcome-unknown", "say": "The API itself does not know whether it happened. Look the resource up, or ask the operator.", "rows": "L8"},
    {"when": {"code": "reply-gone"}, "verdict": "undecided", "why": "reply-gone", "say": "It was done, and the reply is no longer kept. Look the resource up.", "rows": "Q21"},
    {"when": {"code": "key-reused"}, "verdict": "rejected", "why": "key-reused", "proves": "attempt", "resumable": false, "say": "The key was used for another content. A new operation needs a new key.", "rows": "Q8 L3"},
    {"when": {"code": "too-late"}, "verdict": "rejected", "why": "too-late", "proves": "attempt", "resumable": false, "say": "The request is too old to be told apart from a repetition.", "rows": "Q21"},
    {"when": {"code": ["key-missing", "key-invalid"]}, "verdict": "rejected", "why": "key-refused", "proves": "attempt", "resumable": false, "say": "The API does not take this key.", "rows": "E37"},
    {"when": {"code": "request-too-large"}, "verdict": "rejected", "why": "too-large", "proves": "attempt", "resumable": false, "say": "The content is larger than the API protects.", "rows": "L3"},
    {"when": {"code": ["store-unavailable", "origin-unavailable", "request-timeout", "request-incomplete"]}, "verdict": "retry", "why": "not-executed", "proves": "attempt", "say": "The API could not take the request; nothing was executed.", "rows": "L2"},
    {"when": {"code": "resource-id-reused"}, "verdict": "rejected", "why": "id-reused", "proves": "key", "resumable": false, "say": "The id belongs to a resource with other fields. A new resource needs a new id.", "rows": "Q8"},
    {"when": {"code": "slot-taken"}, "verdict": "rejected", "why": "slot-taken", "proves": "key", "resumable": false, "say": "The operation was already done with another value, and that one stands.", "rows": "E38"},
    {"when": {"code": "guard-held"}, "verdict": "rejected", "why": "guard-held", "proves": "key", "resumable": true, "say": "Another operation with the same business values is still pending; content and Location name it.", "rows": "E10 E11 L6"},
    {"when": {"code": "resource-exists"}, "verdict": "undecided", "why": "exists", "say": "It exists with the same fields. Look it up by its id.", "rows": "Q7 L5"},
    {"when": {"status": "4xx", "header": {"Idempotent-Replayed": "true"}}, "verdict": "rejected", "why": "kept-refusal", "proves": "key", "resumable": false, "say": "The API refused it once and keeps that answer; another try needs a new key.", "rows": "E49"},
    {"when": {"status": "5xx", "header": {"Idempotent-Replayed": "true"}}, "verdict": "undecided", "why": "kept-failure", "say": "The API failed once and keeps that answer; it does not say whether the effect happened.", "rows": "E49 L8"},
    {"when": {"status": "5xx", "header": {"Idempotency-Status": "released"}}, "verdict": "retry", "why": "released", "proves": "key", "say": "The API failed and says that nothing happened.", "rows": "E30 Q11"},
    {"when": {"status": ["408", "425", "429"]}, "verdict": "retry", "why": "slow-down", "proves": "attempt", "say": "The API asks for patience; this attempt was not executed.", "rows": "L2"},
    {"when": {"status": ["401", "403", "407"]}, "verdict": "rejected", "why": "unauthorized", "proves": "attempt", "resumable": true, "say": "The API did not accept the credentials. Correct them, then resume.", "rows": "E31 L3"},
    {"when": {"status": "4xx", "header": {"Idempotency-Status": "released"}}, "verdict": "rejected", "why": "refused", "proves": "key", "resumable": true, "say": "The API refused it and says that nothing happened; the key is free.", "rows": "Q11 E31"},
    {"when": {"status": "402"}, "verdict": "rejected", "why": "payment-required", "proves": "attempt", "resumable": true, "say": "It has to be paid for first. Pay, then resume.", "rows": "E31 L4"},
    {"when": {"status": "409"}, "verdict": "retry", "why": "conflict", "say": "By the draft, a conflict means that the first request is still being processed.", "rows": "Q15 L2"},
    {"when": {"status": "4xx"}, "verdict": "rejected", "why": "refused", "proves": "attempt", "resumable": false, "say": "The API refused the request. Correct it, and send it as a new operation.", "rows": "E31 L3"},
    {"when": {"status": ["301", "307", "308"]}, "verdict": "rejected", "why": "moved", "proves": "attempt", "resumable": false, "say": "The API is somewhere else; redirects are not followed.", "rows": "L18"},
    {"when": {"status": "3xx"}, "verdict": "undecided", "why": "redirected", "say": "The API answered with a redirect, which says nothing about the effect.", "rows": "L18"},
    {"when": {"failure": "not-sent"}, "verdict": "retry", "why": "not-sent", "proves": "attempt", "say": "No connection could be made, so nothing was sent.", "rows": "E30 L2"},
    {"when": {"failure": "no-response"}, "verdict": "retry", "why": "no-response", "say": "The request was sent and no whole response came back.", "rows": "E30 L2"},
    {"when": {"status": "5xx"}, "verdict": "retry", "why": "failed", "say": "The API failed, perhaps after the effect happened.", "rows": "E30 L2"},
    {"when": {}, "verdict": "undecided", "why": "not-understood", "say": "The response has no meaning that is known here.", "rows": "L18"}
  ]
};

/** Stripe's v1 API: everything after execution began is kept, 500 included; what its rate limiter and its authentication refuse is not. */
export const stripe: Table = {
  "preset": "stripe",
  "doc": "Stripe's v1 API: everything after execution began is kept, 500 included; what its rate limiter and its authentication refuse is not.",
  "routes": [
    {"path": "/*", "key": {"header": "Idempotency-Key"}}
  ],
  "budget": {"attempts_max": 8, "elapsed_max_ms": 600000, "attempt_max_ms": 30000, "pause_base_ms": 500, "pause_max_ms": 30000, "window_ms": 86400000, "margin_ms": 600000},
  "replayed": [{"header": {"Idempotent-Replayed": "true"}}],
  "log": {"reference": ["/metadata/merchant_reference_id"], "order_id": ["/id"], "tracking_id": ["/latest_charge"]},
  "rules": [
    {"when": {"status": "2xx"}, "verdict": "done", "why": "success", "say": "The API confirmed it.", "rows": "E24 L15"},
    {"when": {"code": "in-flight"}, "verdict": "retry", "why": "in-flight", "say": "The first request with this key is still being processed.", "rows": "Q10 L2"},
    {"when": {"code": "outcome-unknown"}, "verdict": "undecided", "why": "outcome-unknown", "say": "The API itself does not know whether it happened. Look the resource up, or ask the operator.", "rows": "L8"},
    {"when": {"code": "reply-gone"}, "verdict": "undecided", "why": "reply-gone", "say": "It was done, and the reply is no longer kept. Look the resource up.", "rows": "Q21"},
    {"when": {"code": "key-reused"}, "verdict": "rejected", "why": "key-reused", "proves": "attempt", "resumable": false, "say": "The key was used for another content. A new operation needs a new key.", "rows": "Q8 L3"},
    {"when": {"code": "too-late"}, "verdict": "rejected", "why": "too-late", "proves": "attempt", "resumable": false, "say": "The request is too old to be told apart from a repetition.", "rows": "Q21"},
    {"when": {"code": ["key-missing", "key-invalid"]}, "verdict": "rejected", "why": "key-refused", "proves": "attempt", "resumable": false, "say": "The API does not take this key.", "rows": "E37"},
    {"when": {"code": "request-too-large"}, "verdict": "rejected", "why": "too-large", "proves": "attempt", "resumable": false, "say": "The content is larger than the API protects.", "rows": "L3"},
    {"when": {"code": ["store-unavailable", "origin-unavailable", "request-timeout", "request-incomplete"]}, "verdict": "retry", "why": "not-executed", "proves": "attempt", "say": "The API could not take the request; nothing was executed.", "rows": "L2"},
    {"when": {"status": "4xx", "header": {"Idempotent-Replayed": "true"}}, "verdict": "rejected", "why": "kept-refusal", "proves": "key", "resumable": false, "say": "The API refused it once and keeps that answer; another try needs a new key.", "rows": "E49"},
    {"when": {"status": "5xx", "header": {"Idempotent-Replayed": "true"}}, "verdict": "undecided", "why": "kept-failure", "say": "The API failed once and keeps that answer; it does not say whether the effect happened.", "rows": "E49 L8"},
    {"when": {"status": "5xx", "header": {"Idempotency-Status": "released"}}, "verdict": "retry", "why": "released", "proves": "key", "say": "The API failed and says that nothing happened.", "rows": "E30 Q11"},
    {"when": {"status": ["408", "425", "429"]}, "verdict": "retry", "why": "slow-down", "proves": "attempt", "say": "The API asks for patience; this attempt was not executed.", "rows": "L2"},
    {"when": {"status": ["401", "403", "407"]}, "verdict": "rejected", "why": "unauthorized", "proves": "attempt", "resumable": true, "say": "The API did not accept the credentials. Correct them, then resume.", "rows": "E31 L3"},
    {"when": {"status": "4xx", "header": {"Idempotency-Status": "released"}}, "verdict": "rejected", "why": "refused", "proves": "key", "resumable": true, "say": "The API refused it and says that nothing happened; the key is free.", "rows": "Q11 E31"},
    {"when": {"status": ["400", "409"], "member": "/error/code", "is": "idempotency_key_in_use"}, "verdict": "retry", "why": "in-flight", "say": "The first request with this key is still being processed.", "rows": "Q15 L2"},
    {"when": {"status": ["400", "409"], "member": "/error/type", "is": "idempotency_error"}, "verdict": "rejected", "why": "key-reused", "proves": "attempt", "resumable": false, "say": "The key was used for another content. A new operation needs a new key.", "rows": "Q8 L3"},
    {"when": {"status": ["409", "5xx"], "header": {"Stripe-Should-Retry": "false"}}, "verdict": "undecided", "why": "do-not-retry", "say": "The API says that a retry would not help, and not whether the effect happened.", "rows": "L8"},
    {"when": {"status": "409"}, "verdict": "retry", "why": "conflict", "say": "The first request, or another one on the same object, is still being processed.", "rows": "Q15 L2"},
    {"when": {"status": "402"}, "verdict": "rejected", "why": "declined", "proves": "key", "resumable": false, "say": "The card was declined, and the API keeps that answer; another try needs a new key.", "rows": "L4"},
    {"when": {"status": "4xx"}, "verdict": "rejected", "why": "refused", "proves": "attempt", "resumable": false, "say": "The API refused the request. Correct it, and send it as a new operation.", "rows": "E31 L3"},
    {"when": {"status": ["301", "307", "308"]}, "verdict": "rejected", "why": "moved", "proves": "attempt", "resumable": false, "say": "The API is somewhere else; redirects are not followed.", "rows": "L18"},
    {"when": {"status": "3xx"}, "verdict": "undecided", "why": "redirected", "say": "The API answered with a redirect, which says nothing about the effect.", "rows": "L18"},
    {"when": {"failure": "not-sent"}, "verdict": "retry", "why": "not-sent", "proves": "attempt", "say": "No connection could be made, so nothing was sent.", "rows": "E30 L2"},
    {"when": {"failure": "no-response"}, "verdict": "retry", "why": "no-response", "say": "The request was sent and no whole response came back.", "rows": "E30 L2"},
    {"when": {"status": "5xx"}, "verdict": "retry", "why": "failed", "say": "The API failed, perhaps after the effect happened.", "rows": "E30 L2"},
    {"when": {}, "verdict": "undecided", "why": "not-understood", "say": "The response has no meaning that is known here.", "rows": "L18"}
  ]
};

/** Etherfuse's ramp API: the id that a client gives to what it creates is the key; a taken id is a conflict, never a replay. Two conflicts are told apart by their words, or by asking for the resource. */
export const etherfuse: Table = {
  "preset": "etherfuse",
  "doc": "Etherfuse's ramp API: the id that a client gives to what it creates is the key; a taken id is a conflict, never a replay. Two conflicts are told apart by their words, or by asking for the resource.",
  "routes": [
    {"path": "/ramp/order", "key": {"member": "/orderId"}, "read": {"path": "/ramp/order/{key}", "id": "/orderId"}},
    {"path": "/ramp/organization", "key": {"member": "/id"}, "read": {"path": "/ramp/customer/{key}", "id": "/customerId"}},
    {"path": "/ramp/customer/{customerId}/bank-account", "key": {"member": "/bankAccountId"}, "read": {"path": "/ramp/bank-account/{key}", "id": "/bankAccountId"}},
    {"path": "/ramp/quote", "key": {"member": "/quoteId"}},
    {"path": "/*", "key": {"header": "Idempotency-Key"}}
  ],
  "budget": {"attempts_max": 8, "elapsed_max_ms": 600000, "attempt_max_ms": 30000, "pause_base_ms": 500, "pause_max_ms": 30000, "window_ms": null, "margin_ms": 600000},
  "replayed": [{"header": {"Idempotent-Replayed": "true"}}],
  "log": {"reference": ["/orderId", "/memo"], "order_id": ["/onramp/orderId", "/offramp/orderId", "/orderId", "/bankAccountId", "/organizationId"], "tracking_id": ["/trackingCode"]},
  "rules": [
    {"when": {"status": "2xx"}, "verdict": "done", "why": "success", "say": "The API confirmed it.", "rows": "E24 L15"},
    {"when": {"code": "in-flight"}, "verdict": "retry", "why": "in-flight", "say": "The first request with this key is still being processed.", "rows": "Q10 L2"},
    {"when": {"code": "outcome-unknown"}, "verdict": "undecided", "why": "outcome-unknown", "say": "The API itself does not know whether it happened. Look the resource up, or ask the operator.", "rows": "L8"},
    {"when": {"code": "reply-gone"}, "verdict": "undecided", "why": "reply-gone", "say": "It was done, and the reply is no longer kept. Look the resource up.", "rows": "Q21"},
    {"when": {"code": "key-reused"}, "verdict": "rejected", "why": "key-reused", "proves": "attempt", "resumable": false, "say": "The key was used for another content. A new operation needs a new key.", "rows": "Q8 L3"},
    {"when": {"code": "too-late"}, "verdict": "rejected", "why": "too-late", "proves": "attempt", "resumable": false, "say": "The request is too old to be told apart from a repetition.", "rows": "Q21"},
    {"when": {"code": ["key-missing", "key-invalid"]}, "verdict": "rejected", "why": "key-refused", "proves": "attempt", "resumable": false, "say": "The API does not take this key.", "rows": "E37"},
    {"when": {"code": "request-too-large"}, "verdict": "rejected", "why": "too-large", "proves": "attempt", "resumable": false, "say": "The content is larger than the API protects.", "rows": "L3"},
    {"when": {"code": ["store-unavailable", "origin-unavailable", "request-timeout", "request-incomplete"]}, "verdict": "retry", "why": "not-executed", "proves": "attempt", "say": "The API could not take the request; nothing was executed.", "rows": "L2"},
    {"when": {"code": "resource-id-reused"}, "verdict": "rejected", "why": "id-reused", "proves": "key", "resumable": false, "say": "The id belongs to a resource with other fields. A new resource needs a new id.", "rows": "Q8"},
    {"when": {"code": "slot-taken"}, "verdict": "rejected", "why": "slot-taken", "proves": "key", "resumable": false, "say": "The operation was already done with another value, and that one stands.", "rows": "E38"},
    {"when": {"code": "guard-held"}, "verdict": "rejected", "why": "guard-held", "proves": "key", "resumable": true, "say": "Another operation with the same business values is still pending; content and Location name it.", "rows": "E10 E11 L6"},
    {"when": {"code": "resource-exists"}, "verdict": "read", "why": "exists", "otherwise": {"verdict": "retry", "why": "exists-unseen", "say": "It is said to exist and is not to be seen."}, "say": "It exists; its own page is asked.", "rows": "Q7 L5"},
    {"when": {"status": "4xx", "header": {"Idempotent-Replayed": "true"}}, "verdict": "rejected", "why": "kept-refusal", "proves": "key", "resumable": false, "say": "The API refused it once and keeps that answer; another try needs a new key.", "rows": "E49"},
    {"when": {"status": "5xx", "header": {"Idempotency-Status": "released"}}, "verdict": "retry", "why": "released", "proves": "key", "say": "The API failed and says that nothing happened.", "rows": "E30 Q11"},
    {"when": {"status": ["408", "425", "429"]}, "verdict": "retry", "why": "slow-down", "proves": "attempt", "say": "The API asks for patience; this attempt was not executed.", "rows": "L2"},
    {"when": {"status": ["401", "403", "407"]}, "verdict": "rejected", "why": "unauthorized", "proves": "attempt", "resumable": true, "say": "The API did not accept the credentials. Correct them, then resume.", "rows": "E31 L3"},
    {"when": {"status": "4xx", "header": {"Idempotency-Status": "released"}}, "verdict": "rejected", "why": "refused", "proves": "key", "resumable": true, "say": "The API refused it and says that nothing happened; the key is free.", "rows": "Q11 E31"},
    {"when": {"status": "409", "text": ["An order with this transaction ID already exists", "An organization with this ID already exists", "A bank account with this ID already exists", "A quote with this ID already exists"]}, "verdict": "read", "why": "exists", "otherwise": {"verdict": "retry", "why": "exists-unseen", "say": "It is said to exist and is not to be seen: perhaps the first request still runs."}, "say": "It exists; its own page is asked.", "rows": "E3 E7 Q7 Q10 L5 L7"},
    {"when": {"status": "409", "text": "A pending onramp order already exists for this bank account and amount"}, "verdict": "read", "why": "guard-held", "proves": "attempt", "otherwise": {"verdict": "rejected", "why": "guard-held", "resumable": true, "say": "Another onramp order for this bank account and amount is pending. Wait until it leaves that state, then resume; or vary the amount in a new order."}, "say": "Another order for this bank account and amount is pending; whether it is this one, its own page tells.", "rows": "E10 E11 Q7 Q9 L6"},
    {"when": {"status": "409"}, "verdict": "read", "why": "conflict", "proves": "attempt", "otherwise": {"verdict": "rejected", "why": "conflict", "resumable": false, "say": "The API refused it for a conflict, and the resource does not exist."}, "say": "A conflict of an unknown kind; whether the resource exists, its own page tells.", "rows": "Q7 L7"},
    {"when": {"status": "424"}, "verdict": "rejected", "why": "no-quote", "proves": "attempt", "resumable": true, "say": "No quote can be had at the moment. Resume later.", "rows": "L4"},
    {"when": {"status": "4xx", "open": true}, "verdict": "read", "why": "refused", "proves": "attempt", "otherwise": {"verdict": "rejected", "why": "refused", "resumable": false, "say": "The API refused the request."}, "say": "The API refused this attempt; whether an earlier one had its effect, the resource's own page tells.", "rows": "E8 Q9 L7"},
    {"when": {"status": "4xx"}, "verdict": "rejected", "why": "refused", "proves": "attempt", "resumable": false, "say": "The API refused the request. Correct it, and send it as a new operation.", "rows": "E31 L3"},
    {"when": {"status": ["301", "307", "308"]}, "verdict": "rejected", "why": "moved", "proves": "attempt", "resumable": false, "say": "The API is somewhere else; redirects are not followed.", "rows": "L18"},
    {"when": {"status": "3xx"}, "verdict": "undecided", "why": "redirected", "say": "The API answered with a redirect, which says nothing about the effect.", "rows": "L18"},
    {"when": {"failure": "not-sent"}, "verdict": "retry", "why": "not-sent", "proves": "attempt", "say": "No connection could be made, so nothing was sent.", "rows": "E30 L2"},
    {"when": {"failure": "no-response"}, "verdict": "retry", "why": "no-response", "say": "The request was sent and no whole response came back.", "rows": "E30 L2"},
    {"when": {"status": "5xx"}, "verdict": "retry", "why": "failed", "say": "The API failed, perhaps after the effect happened.", "rows": "E30 L2"},
    {"when": {}, "verdict": "undecided", "why": "not-understood", "say": "The response has no meaning that is known here.", "rows": "L18"}
  ]
};

/** Credicorp's public API: a repeat returns the stored result; a key that comes with other data is a conflict. */
export const credicorp: Table = {
  "preset": "credicorp",
  "doc": "Credicorp's public API: a repeat returns the stored result; a key that comes with other data is a conflict.",
  "routes": [
    {"path": "/*", "key": {"header": "Idempotency-Key"}}
  ],
  "budget": {"attempts_max": 8, "elapsed_max_ms": 600000, "attempt_max_ms": 30000, "pause_base_ms": 500, "pause_max_ms": 30000, "window_ms": 86400000, "margin_ms": 600000},
  "replayed": [{"header": {"Idempotency-Replayed": "true"}}, {"header": {"Idempotent-Replayed": "true"}}],
  "log": {"reference": ["/fields/merchant_reference_id"], "order_id": ["/id"], "tracking_id": ["/error/request_id"]},
  "rules": [
    {"when": {"status": "2xx"}, "verdict": "done", "why": "success", "say": "The API confirmed it.", "rows": "E14 E19 L15"},
    {"when": {"code": "in-flight"}, "verdict": "retry", "why": "in-flight", "say": "The first request with this key is still being processed.", "rows": "Q10 L2"},
    {"when": {"code": "outcome-unknown"}, "verdict": "undecided", "why": "outcome-unknown", "say": "The API itself does not know whether it happened. Look the resource up, or ask the operator.", "rows": "L8"},
    {"when": {"code": "reply-gone"}, "verdict": "undecided", "why": "reply-gone", "say": "It was done, and the reply is no longer kept. Look the resource up.", "rows": "Q21"},
    {"when": {"code": "key-reused"}, "verdict": "rejected", "why": "key-reused", "proves": "attempt", "resumable": false, "say": "The key was used for another content. A new operation needs a new key.", "rows": "Q8 L3"},
    {"when": {"code": "too-late"}, "verdict": "rejected", "why": "too-late", "proves": "attempt", "resumable": false, "say": "The request is too old to be told apart from a repetition.", "rows": "Q21"},
    {"when": {"code": ["key-missing", "key-invalid"]}, "verdict": "rejected", "why": "key-refused", "proves": "attempt", "resumable": false, "say": "The API does not take this key.", "rows": "E37"},
    {"when": {"code": "request-too-large"}, "verdict": "rejected", "why": "too-large", "proves": "attempt", "resumable": false, "say": "The content is larger than the API protects.", "rows": "L3"},
    {"when": {"code": ["store-unavailable", "origin-unavailable", "request-timeout", "request-incomplete"]}, "verdict": "retry", "why": "not-executed", "proves": "attempt", "say": "The API could not take the request; nothing was executed.", "rows": "L2"},
    {"when": {"status": "4xx", "header": {"Idempotent-Replayed": "true"}}, "verdict": "rejected", "why": "kept-refusal", "proves": "key", "resumable": false, "say": "The API refused it once and keeps that answer; another try needs a new key.", "rows": "E49"},
    {"when": {"status": "5xx", "header": {"Idempotency-Status": "released"}}, "verdict": "retry", "why": "released", "proves": "key", "say": "The API failed and says that nothing happened.", "rows": "E30 Q11"},
    {"when": {"status": ["408", "425", "429"]}, "verdict": "retry", "why": "slow-down", "proves": "attempt", "say": "The API asks for patience; this attempt was not executed.", "rows": "L2"},
    {"when": {"status": ["401", "403", "407"]}, "verdict": "rejected", "why": "unauthorized", "proves": "attempt", "resumable": true, "say": "The API did not accept the credentials. Correct them, then resume.", "rows": "E31 L3"},
    {"when": {"status": "4xx", "header": {"Idempotency-Status": "released"}}, "verdict": "rejected", "why": "refused", "proves": "key", "resumable": true, "say": "The API refused it and says that nothing happened; the key is free.", "rows": "Q11 E31"},
    {"when": {"status": "4xx", "member": "/error/code", "is": "idempotency_key_reused"}, "verdict": "rejected", "why": "key-reused", "proves": "attempt", "resumable": false, "say": "The key was used for another content. A new operation needs a new key.", "rows": "E23 Q15 Q16 L3"},
    {"when": {"status": "409", "header": {"Retry-After": "*"}}, "verdict": "retry", "why": "in-flight", "say": "The first request with this key is still being processed.", "rows": "Q15 L2"},
    {"when": {"status": "409"}, "verdict": "undecided", "why": "conflict", "say": "A conflict of an unknown kind: the API's words for it are a replay, another content, and a request that still runs.", "rows": "E17 Q15 Q16"},
    {"when": {"status": "422"}, "verdict": "rejected", "why": "refused", "proves": "key", "resumable": false, "say": "The API refused the fields, and keeps no refusal. Correct them, and send them as a new operation.", "rows": "L3"},
    {"when": {"status": "4xx"}, "verdict": "rejected", "why": "refused", "proves": "attempt", "resumable": false, "say": "The API refused the request. Correct it, and send it as a new operation.", "rows": "E31 L3"},
    {"when": {"status": ["301", "307", "308"]}, "verdict": "rejected", "why": "moved", "proves": "attempt", "resumable": false, "say": "The API is somewhere else; redirects are not followed.", "rows": "L18"},
    {"when": {"status": "3xx"}, "verdict": "undecided", "why": "redirected", "say": "The API answered with a redirect, which says nothing about the effect.", "rows": "L18"},
    {"when": {"failure": "not-sent"}, "verdict": "retry", "why": "not-sent", "proves": "attempt", "say": "No connection could be made, so nothing was sent.", "rows": "E30 L2"},
    {"when": {"failure": "no-response"}, "verdict": "retry", "why": "no-response", "say": "The request was sent and no whole response came back.", "rows": "E30 L2"},
    {"when": {"status": "5xx"}, "verdict": "retry", "why": "failed", "say": "The API failed, perhaps after the effect happened.", "rows": "E30 L2"},
    {"when": {}, "verdict": "undecided", "why": "not-understood", "say": "The response has no meaning that is known here.", "rows": "L18"}
  ]
};

/** Yonne's external API: its decision tree, with the same key on every retry. Only successes are kept; a success says so in its content. */
export const yonne: Table = {
  "preset": "yonne",
  "doc": "Yonne's external API: its decision tree, with the same key on every retry. Only successes are kept; a success says so in its content.",
  "routes": [
    {"path": "/*", "key": {"header": "Idempotency-Key"}}
  ],
  "budget": {"attempts_max": 8, "elapsed_max_ms": 600000, "attempt_max_ms": 30000, "pause_base_ms": 500, "pause_max_ms": 30000, "window_ms": 86400000, "margin_ms": 600000},
  "replayed": [{"member": "/idempotent_replay", "is": true}, {"header": {"Idempotent-Replayed": "true"}}],
  "log": {"reference": ["/merchant_reference_id"], "order_id": ["/order_id"], "tracking_id": ["/tracking_id"]},
  "rules": [
    {"when": {"status": "2xx", "member": "/success", "is": true}, "verdict": "done", "why": "success", "say": "The API confirmed it.", "rows": "E26 E33 L15"},
    {"when": {"status": "2xx"}, "verdict": "undecided", "why": "no-success", "say": "The status says success and the content does not.", "rows": "E33 L18"},
    {"when": {"code": "in-flight"}, "verdict": "retry", "why": "in-flight", "say": "The first request with this key is still being processed.", "rows": "Q10 L2"},
    {"when": {"code": "outcome-unknown"}, "verdict": "undecided", "why": "outcome-unknown", "say": "The API itself does not know whether it happened. Look the resource up, or ask the operator.", "rows": "L8"},
    {"when": {"code": "reply-gone"}, "verdict": "undecided", "why": "reply-gone", "say": "It was done, and the reply is no longer kept. Look the resource up.", "rows": "Q21"},
    {"when": {"code": "key-reused"}, "verdict": "rejected", "why": "key-reused", "proves": "attempt", "resumable": false, "say": "The key was used for another content. A new operation needs a new key.", "rows": "Q8 L3"},
    {"when": {"code": "too-late"}, "verdict": "rejected", "why": "too-late", "proves": "attempt", "resumable": false, "say": "The request is too old to be told apart from a repetition.", "rows": "Q21"},
    {"when": {"code": ["key-missing", "key-invalid"]}, "verdict": "rejected", "why": "key-refused", "proves": "attempt", "resumable": false, "say": "The API does not take this key.", "rows": "E37"},
    {"when": {"code": "request-too-large"}, "verdict": "rejected", "why": "too-large", "proves": "attempt", "resumable": false, "say": "The content is larger than the API protects.", "rows": "L3"},
    {"when": {"code": ["store-unavailable", "origin-unavailable", "request-timeout", "request-incomplete"]}, "verdict": "retry", "why": "not-executed", "proves": "attempt", "say": "The API could not take the request; nothing was executed.", "rows": "L2"},
    {"when": {"status": "5xx", "header": {"Idempotency-Status": "released"}}, "verdict": "retry", "why": "released", "proves": "key", "say": "The API failed and says that nothing happened.", "rows": "E30 Q11"},
    {"when": {"status": ["408", "425", "429"]}, "verdict": "retry", "why": "slow-down", "proves": "attempt", "say": "The API asks for patience; this attempt was not executed.", "rows": "L2"},
    {"when": {"status": ["401", "403", "407"]}, "verdict": "rejected", "why": "unauthorized", "proves": "attempt", "resumable": true, "say": "The API did not accept the credentials. Correct them, then resume.", "rows": "E31 L3"},
    {"when": {"status": "402"}, "verdict": "rejected", "why": "insufficient-funds", "proves": "key", "resumable": true, "say": "The wallet's balance is too low. Top up, then resume.", "rows": "E31 Q2 L4"},
    {"when": {"status": "422", "member": "/error", "is": "ERR_NO_CAPACITY_AVAILABLE"}, "verdict": "rejected", "why": "no-capacity", "proves": "key", "resumable": true, "say": "No vehicle is free for this weight. Wait for capacity, then resume.", "rows": "E31 Q5 L4"},
    {"when": {"status": "4xx", "header": {"Idempotency-Status": "released"}}, "verdict": "rejected", "why": "refused", "proves": "key", "resumable": true, "say": "The API refused it and says that nothing happened; the key is free.", "rows": "Q11 E31"},
    {"when": {"status": "409", "member": "/error", "is": "Request in progress"}, "verdict": "retry", "why": "in-flight", "say": "The first request with this key is still being processed.", "rows": "Q4 L2"},
    {"when": {"status": "409"}, "verdict": "undecided", "why": "conflict", "say": "A conflict of a kind that the API does not document.", "rows": "Q5"},
    {"when": {"status": "400"}, "verdict": "rejected", "why": "refused", "proves": "key", "resumable": false, "say": "The API refused the content. Correct it, and send it as a new operation.", "rows": "E31 Q3 L3"},
    {"when": {"status": "4xx"}, "verdict": "rejected", "why": "refused", "proves": "attempt", "resumable": false, "say": "The API refused the request. Correct it, and send it as a new operation.", "rows": "E31 L3"},
    {"when": {"status": ["301", "307", "308"]}, "verdict": "rejected", "why": "moved", "proves": "attempt", "resumable": false, "say": "The API is somewhere else; redirects are not followed.", "rows": "L18"},
    {"when": {"status": "3xx"}, "verdict": "undecided", "why": "redirected", "say": "The API answered with a redirect, which says nothing about the effect.", "rows": "L18"},
    {"when": {"failure": "not-sent"}, "verdict": "retry", "why": "not-sent", "proves": "attempt", "say": "No connection could be made, so nothing was sent.", "rows": "E30 L2"},
    {"when": {"failure": "no-response"}, "verdict": "retry", "why": "no-response", "say": "The request was sent and no whole response came back.", "rows": "E30 L2"},
    {"when": {"status": "5xx"}, "verdict": "retry", "why": "failed", "say": "The API failed, perhaps after the effect happened.", "rows": "E30 L2"},
    {"when": {}, "verdict": "undecided", "why": "not-understood", "say": "The response has no meaning that is known here.", "rows": "L18"}
  ]
};

/** Nora's v2 API: replays keep the original status; a party's document number and an intent's burn signature are keys of their own. */
export const nora: Table = {
  "preset": "nora",
  "doc": "Nora's v2 API: replays keep the original status; a party's document number and an intent's burn signature are keys of their own.",
  "routes": [
    {"path": "/v2/intents/{id}/approve-burn", "key": {"member": "/txSignature"}},
    {"path": "/v2/parties", "key": {"member": "/cpf"}},
    {"path": "/*", "key": {"header": "Idempotency-Key"}}
  ],
  "budget": {"attempts_max": 8, "elapsed_max_ms": 600000, "attempt_max_ms": 30000, "pause_base_ms": 500, "pause_max_ms": 30000, "window_ms": 86400000, "margin_ms": 600000},
  "replayed": [{"header": {"Idempotent-Replayed": "true"}}],
  "log": {"reference": ["/clientReference", "/externalRef"], "order_id": ["/id"], "tracking_id": ["/clientReference"]},
  "rules": [
    {"when": {"status": "2xx"}, "verdict": "done", "why": "success", "say": "The API confirmed it.", "rows": "E36 E49 L15"},
    {"when": {"code": "in-flight"}, "verdict": "retry", "why": "in-flight", "say": "The first request with this key is still being processed.", "rows": "Q10 L2"},
    {"when": {"code": "outcome-unknown"}, "verdict": "undecided", "why": "outcome-unknown", "say": "The API itself does not know whether it happened. Look the resource up, or ask the operator.", "rows": "L8"},
    {"when": {"code": "reply-gone"}, "verdict": "undecided", "why": "reply-gone", "say": "It was done, and the reply is no longer kept. Look the resource up.", "rows": "Q21"},
    {"when": {"code": "key-reused"}, "verdict": "rejected", "why": "key-reused", "proves": "attempt", "resumable": false, "say": "The key was used for another content. A new operation needs a new key.", "rows": "Q8 L3"},
    {"when": {"code": "too-late"}, "verdict": "rejected", "why": "too-late", "proves": "attempt", "resumable": false, "say": "The request is too old to be told apart from a repetition.", "rows": "Q21"},
    {"when": {"code": ["key-missing", "key-invalid"]}, "verdict": "rejected", "why": "key-refused", "proves": "attempt", "resumable": false, "say": "The API does not take this key.", "rows": "E37"},
    {"when": {"code": "request-too-large"}, "verdict": "rejected", "why": "too-large", "proves": "attempt", "resumable": false, "say": "The content is larger than the API protects.", "rows": "L3"},
    {"when": {"code": ["store-unavailable", "origin-unavailable", "request-timeout", "request-incomplete"]}, "verdict": "retry", "why": "not-executed", "proves": "attempt", "say": "The API could not take the request; nothing was executed.", "rows": "L2"},
    {"when": {"code": "slot-taken"}, "verdict": "rejected", "why": "slot-taken", "proves": "key", "resumable": false, "say": "The operation was already done with another value, and that one stands.", "rows": "E38"},
    {"when": {"status": "4xx", "header": {"Idempotent-Replayed": "true"}}, "verdict": "rejected", "why": "kept-refusal", "proves": "key", "resumable": false, "say": "The API refused it once and keeps that answer; another try needs a new key.", "rows": "E49"},
    {"when": {"status": "5xx", "header": {"Idempotency-Status": "released"}}, "verdict": "retry", "why": "released", "proves": "key", "say": "The API failed and says that nothing happened.", "rows": "E30 Q11"},
    {"when": {"status": ["408", "425", "429"]}, "verdict": "retry", "why": "slow-down", "proves": "attempt", "say": "The API asks for patience; this attempt was not executed.", "rows": "L2"},
    {"when": {"status": ["401", "403", "407"]}, "verdict": "rejected", "why": "unauthorized", "proves": "attempt", "resumable": true, "say": "The API did not accept the credentials. Correct them, then resume.", "rows": "E31 L3"},
    {"when": {"status": "4xx", "header": {"Idempotency-Status": "released"}}, "verdict": "rejected", "why": "refused", "proves": "key", "resumable": true, "say": "The API refused it and says that nothing happened; the key is free.", "rows": "Q11 E31"},
    {"when": {"status": "4xx", "member": "/code", "is": "idempotency_key_reused"}, "verdict": "rejected", "why": "key-reused", "proves": "attempt", "resumable": false, "say": "The key was used for another content. A new operation needs a new key.", "rows": "E42 Q19 L3"},
    {"when": {"status": "4xx", "member": "/code", "is": "burn_signature_conflict"}, "verdict": "rejected", "why": "slot-taken", "proves": "key", "resumable": false, "say": "The intent was approved with another signature, and that one stands.", "rows": "E38 E44 Q18"},
    {"when": {"status": "409", "text": "Party with this cpf already exists"}, "verdict": "rejected", "why": "exists", "proves": "attempt", "resumable": false, "say": "A party with this document number exists. Look it up.", "rows": "E39 Q24"},
    {"when": {"status": "4xx", "member": "/code", "is": "invalid_state"}, "verdict": "rejected", "why": "wrong-state", "proves": "attempt", "resumable": false, "say": "The intent is not in a state that allows this.", "rows": "E38"},
    {"when": {"status": "409", "header": {"Retry-After": "*"}}, "verdict": "retry", "why": "in-flight", "say": "The first request with this key is still being processed.", "rows": "E43 Q21 L2"},
    {"when": {"status": "409"}, "verdict": "undecided", "why": "conflict", "say": "A conflict of an unknown kind.", "rows": "Q18 Q19"},
    {"when": {"status": "422"}, "verdict": "rejected", "why": "refused", "proves": "key", "resumable": false, "say": "A business rule refused it, and the API keeps that answer. Another try needs a new key.", "rows": "E49 L3"},
    {"when": {"status": "4xx"}, "verdict": "rejected", "why": "refused", "proves": "attempt", "resumable": false, "say": "The API refused the request. Correct it, and send it as a new operation.", "rows": "E31 L3"},
    {"when": {"status": ["301", "307", "308"]}, "verdict": "rejected", "why": "moved", "proves": "attempt", "resumable": false, "say": "The API is somewhere else; redirects are not followed.", "rows": "L18"},
    {"when": {"status": "3xx"}, "verdict": "undecided", "why": "redirected", "say": "The API answered with a redirect, which says nothing about the effect.", "rows": "L18"},
    {"when": {"failure": "not-sent"}, "verdict": "retry", "why": "not-sent", "proves": "attempt", "say": "No connection could be made, so nothing was sent.", "rows": "E30 L2"},
    {"when": {"failure": "no-response"}, "verdict": "retry", "why": "no-response", "say": "The request was sent and no whole response came back.", "rows": "E30 L2"},
    {"when": {"status": "5xx"}, "verdict": "retry", "why": "failed", "say": "The API failed, perhaps after the effect happened.", "rows": "E30 L2"},
    {"when": {}, "verdict": "undecided", "why": "not-understood", "say": "The response has no meaning that is known here.", "rows": "L18"}
  ]
};
