//! The calls. Each reads its request to the end before it touches the books.

use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use serde_json::{Map, Value, json};

use super::{
    Account, CURRENCY,
    fare::{BUCKETS, Class, Place, WEIGHT_KG_MAX, eta_minutes},
    refusal::Refusal,
    status::Status,
    wallet,
};
use crate::sandbox::api::{self, Call, Desk, Outcome};

/// The first order's number, as in Yonne's examples.
const FIRST_ORDER: i64 = 123_456;
/// The largest fee, in MWK.
pub(super) const FEE_MAX: u64 = 1_000_000_000;
/// The longest text of an order, in characters.
pub(super) const TEXT_CHARS_MAX: usize = 500;
/// The largest `metadata`, in bytes as JSON: it is in the reply, which must fit into a record.
pub(super) const METADATA_BYTES_MAX: usize = 16 << 10;
/// The texts of an order.
pub(super) const TEXTS: [&str; 7] = [
    "delivery_address",
    "receiver_name",
    "receiver_phone",
    "item_name",
    "product_type",
    "delivery_speed",
    "merchant_reference_id",
];

type Members = Map<String, Value>;

/// `GET /validate`
pub(super) async fn validate(call: &mut Call<'_>) -> Outcome {
    let account = account(call);
    let balance = wallet::balance(&mut call.desk, account).await?;
    let pickup = Pickup::of(&mut call.desk).await?;
    let mut content = json!({
        "success": true,
        "balance": balance,
        "currency": CURRENCY,
        "hasPickup": pickup.is_some(),
        "pickupAddress": null,
        "pickupLatitude": null,
        "pickupLongitude": null,
        "environment": account.environment,
    });
    if let Some(pickup) = pickup {
        content["pickupAddress"] = json!(pickup.address);
        content["pickupLatitude"] = json!(pickup.place.lat);
        content["pickupLongitude"] = json!(pickup.place.lng);
    }
    Ok(api::json(StatusCode::OK, &content))
}

/// `GET /wallet`
pub(super) async fn wallet(call: &mut Call<'_>) -> Outcome {
    let account = account(call);
    let balance = wallet::balance(&mut call.desk, account).await?;
    let content =
        json!({ "success": true, "balance": balance, "currency": CURRENCY, "environment": account.environment });
    Ok(api::json(StatusCode::OK, &content))
}

/// `POST /quote`, and `GET /quote` with the same names in the query.
pub(super) async fn quote(call: &mut Call<'_>) -> Outcome {
    let account = account(call);
    let pickup = Pickup::of(&mut call.desk).await?;
    let members = if call.request.method() == Method::POST { content(call) } else { Ok(query(call)) };
    let trip = match members
        .map_err(|why| Refusal::missing_coordinates(Some(&why)))
        .and_then(|members| Trip::read(&members, pickup.as_ref(), From::Merchant))
    {
        Ok(trip) => trip,
        Err(refusal) => return Ok(refusal.response()),
    };
    let class = Class::smallest_for(trip.weight_kg);
    let price = class.price(trip.road_tenths);
    let minutes = eta_minutes(trip.road_tenths);
    #[allow(clippy::cast_precision_loss, reason = "at most half the earth's circumference")]
    let distance_km = trip.road_tenths as f64 / 10.0;
    let content = json!({
        "success": true,
        "price": price,
        "delivery_fee": price,
        "currency": CURRENCY,
        "eta": format!("{minutes}m"),
        "eta_minutes": minutes,
        "service_id": format!("{}_std", class.name().to_lowercase()),
        "suggested_vehicle_class": class.name(),
        "required_weight_kg": number(trip.weight_kg),
        "distance_km": number(distance_km),
        "environment": account.environment,
    });
    Ok(api::json(StatusCode::OK, &content))
}

/// `POST /create-order`
pub(super) async fn create_order(call: &mut Call<'_>) -> Outcome {
    let account = account(call);
    let pickup = Pickup::of(&mut call.desk).await?;
    let order = match content(call)
        .map_err(|why| Refusal::missing_coordinates(Some(&why)))
        .and_then(|members| Order::read(members, pickup.as_ref()))
    {
        Ok(order) => order,
        Err(refusal) => return Ok(refusal.response()),
    };
    // Funds before riders: a 402 comes before a 422.
    let balance = wallet::balance(&mut call.desk, account).await?;
    let Some(left) = balance.checked_sub(order.fee) else {
        return Ok(Refusal::new(StatusCode::PAYMENT_REQUIRED, "Insufficient Funds")
            .message("Wallet balance is insufficient for this delivery. Please top up.")
            .with("balance", json!(balance))
            .with("required", json!(order.fee))
            .response());
    };
    let Some(class) = rider_for(&mut call.desk, order.trip.weight_kg).await? else {
        return Ok(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "ERR_NO_CAPACITY_AVAILABLE")
            .message("No online rider has sufficient vehicle capacity for this package weight.")
            .with("required_weight_kg", number(order.trip.weight_kg))
            .response());
    };
    let number = call.desk.next("order", FIRST_ORDER).await?;
    let id = format!("ORD-{number}");
    let tracking_id = format!("YON-TRK-{number}");
    wallet::set(&mut call.desk, account, left).await?;
    call.desk.debit(&account.name(), &order.fee.to_string(), &id).await?;
    let mut told = order.echoed();
    for (name, value) in [
        ("success", json!(true)),
        ("order_id", json!(id)),
        ("tracking_id", json!(tracking_id)),
        ("tracking_link", json!(format!("https://yonne.app/track/{tracking_id}"))),
        ("status", json!(Status::Searching.name())),
        ("delivery_fee", json!(order.fee)),
        ("currency", json!(CURRENCY)),
        ("environment", json!(account.environment)),
    ] {
        told.insert(name.to_owned(), value);
    }
    let mut data = Value::Object(told.clone());
    data[VEHICLE_CLASS] = json!(class.name());
    data[ASKED] = json!(order.members);
    let key = call.key().map(str::to_owned);
    call.desk.add(ORDER, &id, &account.name(), key.as_deref(), &data).await?;
    told.insert("wallet_balance".to_owned(), json!(left));
    Ok(api::json(StatusCode::OK, &Value::Object(told)))
}

/// `GET /track/{tracking_id}`
pub(super) async fn track(call: &mut Call<'_>) -> Outcome {
    let account = account(call);
    // An order has one number, in both of its ids.
    let Some(id) = call.segment("tracking_id").strip_prefix("YON-TRK-").map(|number| format!("ORD-{number}")) else {
        return Ok(Refusal::no_order().response());
    };
    let Some((_, mut told)) = order_of(&mut call.desk, account, &id).await? else {
        return Ok(Refusal::no_order().response());
    };
    let status = told["status"].as_str().and_then(Status::of).ok_or("an order has a status")?;
    told["status"] = json!(status.readable());
    let members = told.as_object_mut().ok_or("an order is an object")?;
    members.retain(|name, _| name != VEHICLE_CLASS && name != ASKED);
    Ok(api::json(StatusCode::OK, &told))
}

/// `POST /test/simulate-status`
pub(super) async fn simulate_status(call: &mut Call<'_>) -> Outcome {
    const REQUIRED: &str = "order_id and status are required";
    let account = account(call);
    let members = match content(call) {
        Ok(members) => members,
        Err(why) => return Ok(Refusal::bad(REQUIRED, &why).response()),
    };
    let text = |name: &str| members.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (Some(id), Some(wanted)) = (text("order_id"), text("status")) else {
        return Ok(Refusal::new(StatusCode::BAD_REQUEST, REQUIRED).response());
    };
    let Some(status) = Status::of(wanted) else {
        let names: Vec<&str> = Status::ALL.iter().map(|status| status.readable()).collect();
        return Ok(Refusal::bad("Invalid status", &format!("status must be one of {}.", names.join(", "))).response());
    };
    let Some((number, mut data)) = order_of(&mut call.desk, account, id).await? else {
        return Ok(Refusal::no_order().response());
    };
    data["status"] = json!(status.name());
    call.desk.change(number, &data).await?;
    Ok(api::json(StatusCode::OK, &json!({ "success": true, "order_id": id, "status": status.readable() })))
}

/// The kind of an order in the books.
const ORDER: &str = "order";
/// What the books say of an order beyond what the API tells.
const VEHICLE_CLASS: &str = "vehicle_class";
const ASKED: &str = "asked";

fn account(call: &Call<'_>) -> &'static Account {
    Account::of(call.request.headers()).expect("a request without an account is not admitted")
}

/// An order of this account: its number in the books, and what they say of it.
async fn order_of(desk: &mut Desk<'_>, account: &Account, id: &str) -> Outcome<Option<(i64, Value)>> {
    let row = desk.find(ORDER, id).await?;
    Ok(row.filter(|row| row.owner == account.name()).map(|row| (row.number, row.data)))
}

/// The smallest class online that carries this weight.
async fn rider_for(desk: &mut Desk<'_>, weight_kg: f64) -> Outcome<Option<Class>> {
    let online = desk.state(super::RIDERS_ONLINE).await?.ok_or("the riders are furnished")?;
    let names = online.as_array().ok_or("the riders are a list")?.iter().filter_map(Value::as_str);
    let mut classes: Vec<Class> = names.filter_map(Class::of).filter(|class| class.carries(weight_kg)).collect();
    classes.sort_unstable();
    Ok(classes.first().copied())
}

/// The merchant's own place.
struct Pickup {
    place: Place,
    address: &'static str,
}

impl Pickup {
    async fn of(desk: &mut Desk<'_>) -> Outcome<Option<Pickup>> {
        let is_set = desk.state(super::PICKUP).await?.ok_or("the pickup is furnished")?;
        let pickup = Pickup { place: super::PICKUP_PLACE, address: super::PICKUP_ADDRESS };
        Ok((is_set == json!(true)).then_some(pickup))
    }
}

/// Where a trip may start.
#[derive(Clone, Copy)]
enum From {
    /// At the merchant's place.
    Merchant,
    /// There, or where the request says.
    Request,
}

/// What is to be brought, from where to where.
struct Trip {
    road_tenths: u64,
    weight_kg: f64,
}

impl Trip {
    fn read(members: &Members, pickup: Option<&Pickup>, from: From) -> Result<Trip, Refusal> {
        let coordinate = |name: &str| match given(members, name) {
            None => Ok(None),
            Some(Value::Number(number)) => Ok(number.as_f64()),
            Some(_) => Err(Refusal::bad("Invalid coordinates", "Coordinates must be valid numbers.")),
        };
        let (Some(lat), Some(lng)) = (coordinate("delivery_lat")?, coordinate("delivery_lng")?) else {
            return Err(Refusal::missing_coordinates(None));
        };
        let outside = |what: &str| format!("{what} coordinates must be on the globe, and not (0, 0).");
        let delivery = Place::new(lat, lng).ok_or_else(|| Refusal::bad("Invalid delivery", &outside("Delivery")))?;
        let asked = match from {
            From::Merchant => (None, None),
            From::Request => (coordinate("pickup_lat")?, coordinate("pickup_lng")?),
        };
        let start = match (asked, pickup) {
            ((Some(lat), Some(lng)), _) => {
                Place::new(lat, lng).ok_or_else(|| Refusal::bad("Invalid pickup", &outside("Pickup")))?
            }
            ((None, None), Some(pickup)) => pickup.place,
            ((None, None), None) => {
                let message = "Merchant pickup location is not set. Set it in your dashboard.";
                return Err(Refusal::bad("Pickup not set", message));
            }
            ((Some(_), None) | (None, Some(_)), _) => {
                return Err(Refusal::bad("Invalid pickup", "pickup_lat and pickup_lng belong together."));
            }
        };
        let road_tenths = start
            .road_tenths_to(delivery)
            .ok_or_else(|| Refusal::bad("Invalid distance", "Pickup and delivery are the same place, or too close."))?;
        Ok(Trip { road_tenths, weight_kg: weight_kg(members)? })
    }
}

/// The larger of the bucket's weight and the weight that is given.
fn weight_kg(members: &Members) -> Result<f64, Refusal> {
    let bucket = match given(members, "weight_estimate") {
        None => BUCKETS[0].1,
        Some(wanted) => {
            let found = BUCKETS.iter().find(|(name, _)| wanted == *name).map(|(_, weight_kg)| *weight_kg);
            found.ok_or_else(|| {
                let names = BUCKETS.map(|(name, _)| name).join(", ");
                Refusal::bad("Invalid weight_estimate", &format!("weight_estimate must be one of {names}."))
            })?
        }
    };
    let given = match given(members, "total_weight_kg") {
        None => 0.0,
        Some(value) => {
            let weight_kg = value.as_f64().filter(|weight_kg| (0.0..=WEIGHT_KG_MAX).contains(weight_kg));
            weight_kg.ok_or_else(|| {
                let message = format!("total_weight_kg must be a number of kilograms from 0 to {WEIGHT_KG_MAX}.");
                Refusal::bad("Invalid total_weight_kg", &message)
            })?
        }
    };
    Ok(bucket.max(given))
}

/// An order as it is asked for.
struct Order {
    trip: Trip,
    fee: u64,
    members: Members,
}

impl Order {
    fn read(members: Members, pickup: Option<&Pickup>) -> Result<Order, Refusal> {
        let trip = Trip::read(&members, pickup, From::Request)?;
        let fee = match given(&members, "delivery_fee") {
            None => return Err(Refusal::bad("Missing delivery_fee", "delivery_fee is required; a quote tells it.")),
            Some(value) => whole(value).filter(|fee| (1..=FEE_MAX).contains(fee)).ok_or_else(|| {
                let message = format!("delivery_fee must be a whole number of {CURRENCY} from 1 to {FEE_MAX}.");
                Refusal::bad("Invalid delivery_fee", &message)
            })?,
        };
        for name in TEXTS {
            let is_valid = match given(&members, name) {
                None => true,
                Some(value) => value.as_str().is_some_and(|text| text.chars().count() <= TEXT_CHARS_MAX),
            };
            if !is_valid {
                let message = format!("{name} must be a text of at most {TEXT_CHARS_MAX} characters.");
                return Err(Refusal::bad(&format!("Invalid {name}"), &message));
            }
        }
        if let Some(metadata) = given(&members, "metadata")
            && !(metadata.is_object() && metadata.to_string().len() <= METADATA_BYTES_MAX)
        {
            let message = format!("metadata must be an object of at most {METADATA_BYTES_MAX} bytes.");
            return Err(Refusal::bad("Invalid metadata", &message));
        }
        Ok(Order { trip, fee, members })
    }

    /// What the reply repeats of the request.
    fn echoed(&self) -> Members {
        let names = ["merchant_reference_id", "metadata"];
        let echoed = names.into_iter().filter_map(|name| Some((name.to_owned(), given(&self.members, name)?.clone())));
        echoed.collect()
    }
}

/// A member that is there and not null.
fn given<'m>(members: &'m Members, name: &str) -> Option<&'m Value> {
    members.get(name).filter(|value| !value.is_null())
}

/// A whole number, however it is written: `7350.0` is one.
fn whole(value: &Value) -> Option<u64> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, and within the limits of a fee")]
    let of_float = |float: f64| (float.fract() == 0.0 && (0.0..=1e15).contains(&float)).then_some(float as u64);
    value.as_u64().or_else(|| value.as_f64().and_then(of_float))
}

/// A number as people write it: 95, not 95.0.
fn number(float: f64) -> Value {
    let value = json!(float);
    whole(&value).map_or(value, |whole| json!(whole))
}

/// The members of the content. An `Err` says why none could be read.
fn content(call: &Call<'_>) -> Result<Members, String> {
    let media = call.header(header::CONTENT_TYPE.as_str()).unwrap_or_default();
    let essence = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence != "application/json" && !(essence.starts_with("application/") && essence.ends_with("+json")) {
        return Err("The content was not read: send Content-Type: application/json.".to_owned());
    }
    serde_json::from_slice(call.request.body()).map_err(|error| format!("The content is not a JSON object: {error}."))
}

/// The members of a query. What is a number becomes one; the rest stays text, as in JSON.
fn query(call: &Call<'_>) -> Members {
    let pairs = form_urlencoded::parse(call.request.uri().query().unwrap_or_default().as_bytes());
    pairs
        .map(|(name, text)| {
            let is_number = !TEXTS.contains(&name.as_ref());
            let number = text.parse::<f64>().ok().filter(|_| is_number).and_then(serde_json::Number::from_f64);
            (name.into_owned(), number.map_or_else(|| Value::from(text.into_owned()), Value::Number))
        })
        .collect()
}

/// What [`api::Vendor::admit`] does.
pub(super) async fn admit(call: &mut Call<'_>) -> Outcome<Option<Response<Bytes>>> {
    let Some(key) = super::api_key(call.request.headers()) else {
        let message = "API key required. Send X-API-Key header or Authorization: Bearer <key>.";
        return Ok(Some(Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized").message(message).response()));
    };
    let inactive = call.desk.state(super::INACTIVE_KEYS).await?.unwrap_or_default();
    let is_inactive = inactive.as_array().is_some_and(|keys| keys.iter().any(|inactive| inactive == key));
    if is_inactive || Account::of(call.request.headers()).is_none() {
        let refusal = Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized");
        return Ok(Some(refusal.message("The API key is not valid, or not active.").response()));
    }
    let limit = call.desk.settings.whole("rate_limit");
    if limit == 0 {
        return Ok(None);
    }
    let name = format!("rate {key}");
    let now_ms = call.desk.now_ms;
    let kept = call.desk.state(&name).await?.unwrap_or_default();
    let since_ms = kept["since_ms"].as_u64().filter(|since_ms| now_ms < since_ms + super::RATE_WINDOW_MS);
    let used = since_ms.and(kept["used"].as_u64()).unwrap_or(0);
    let since_ms = since_ms.unwrap_or(now_ms);
    if used >= limit {
        let seconds = (since_ms + super::RATE_WINDOW_MS - now_ms).div_ceil(1000);
        let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "Too Many Requests").retry_after(seconds);
        return Ok(Some(refusal.message("Too many requests with this API key. Wait, then send it again.").response()));
    }
    call.desk.keep(&name, &json!({ "since_ms": since_ms, "used": used + 1 })).await?;
    Ok(None)
}
