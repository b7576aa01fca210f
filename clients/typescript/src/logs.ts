// Written by `cargo xtask generate` from crates/semel-core/judgement; do not edit.

import type { LogFields } from "./log.js";

export const LOGS: { [preset: string]: LogFields } = {
  ietf: {"order_id":["/order_id","/id"],"reference":["/merchant_reference_id"],"tracking_id":["/tracking_id"]},
  stripe: {"order_id":["/id"],"reference":["/metadata/merchant_reference_id"],"tracking_id":["/latest_charge"]},
  etherfuse: {"order_id":["/onramp/orderId","/offramp/orderId","/orderId","/bankAccountId","/organizationId"],"reference":["/orderId","/memo"],"tracking_id":["/trackingCode"]},
  credicorp: {"order_id":["/id"],"reference":["/fields/merchant_reference_id"],"tracking_id":["/error/request_id"]},
  yonne: {"order_id":["/order_id"],"reference":["/merchant_reference_id"],"tracking_id":["/tracking_id"]},
  nora: {"order_id":["/id"],"reference":["/clientReference","/externalRef"],"tracking_id":["/clientReference"]},
};
