use expect_test::expect;
use http::StatusCode;
use semel_core::wire::{Problem, ProblemType};

#[test]
fn the_content_of_every_problem() {
    let lines: Vec<String> =
        ProblemType::ALL.iter().map(|kind| Problem::new(*kind).to_json(kind.default_status())).collect();
    expect![[r#"
        {"type":"urn:semel:problem:key-missing","title":"An idempotency key is required","status":400,"detail":"Send a header Idempotency-Key with a fresh UUID for every new operation, and the same one on every retry. Nothing was executed.","code":"key-missing","retryable":false}
        {"type":"urn:semel:problem:key-invalid","title":"The idempotency key is not valid","status":400,"detail":"Correct the idempotency key. Nothing was executed.","code":"key-invalid","retryable":false}
        {"type":"urn:semel:problem:key-reused","title":"The idempotency key was used for another request","status":422,"detail":"The earlier request was another one and is not touched by this. Use a fresh key for a new operation; to retry, repeat the first request unchanged. Nothing was executed.","code":"key-reused","retryable":false}
        {"type":"urn:semel:problem:in-flight","title":"The first request with this idempotency key is still being processed","status":409,"detail":"Repeat this request with the same key after the seconds in Retry-After; you will get the reply of the first. Nothing was executed a second time.","code":"in-flight","retryable":true}
        {"type":"urn:semel:problem:outcome-unknown","title":"Nobody knows whether the effect of this request happened","status":409,"detail":"The request was sent to the origin and no reply was recorded, so the effect may or may not have happened. It is not sent again. Look the resource up, or ask the operator to settle this exchange.","code":"outcome-unknown","retryable":false}
        {"type":"urn:semel:problem:reply-gone","title":"This was done, and its reply is no longer kept","status":409,"detail":"The effect happened with the status in original_status; look the resource up. It is not done again.","code":"reply-gone","retryable":false}
        {"type":"urn:semel:problem:store-unavailable","title":"The record store is unavailable","status":503,"detail":"Repeat this request with the same key later. Nothing was executed.","code":"store-unavailable","retryable":true}
        {"type":"urn:semel:problem:request-too-large","title":"The content is too large to be protected","status":413,"detail":"Make the content smaller, or ask the operator to raise request_body_bytes_max. Nothing was executed.","code":"request-too-large","retryable":false}
        {"type":"urn:semel:problem:request-timeout","title":"The content did not arrive in time","status":408,"detail":"Repeat this request with the same key. Nothing was executed.","code":"request-timeout","retryable":true}
        {"type":"urn:semel:problem:request-incomplete","title":"The content is not complete","status":400,"detail":"Repeat this request with the same key. Nothing was executed.","code":"request-incomplete","retryable":true}
        {"type":"urn:semel:problem:resource-exists","title":"The resource already exists","status":409,"detail":"An earlier request with these fields created it; get it by its id. Nothing was created a second time.","code":"resource-exists","retryable":false}
        {"type":"urn:semel:problem:resource-id-reused","title":"The resource already exists with other fields","status":409,"detail":"An earlier request used this id with other fields, and what it created is unchanged. Use a fresh id for a new resource. Nothing was executed.","code":"resource-id-reused","retryable":false}
        {"type":"urn:semel:problem:slot-taken","title":"The operation was already done with another value","status":409,"detail":"An earlier request did this operation with another value, and that one stands. Nothing was executed.","code":"slot-taken","retryable":false}
        {"type":"urn:semel:problem:guard-held","title":"Another operation that is still live excludes this one","status":409,"detail":"Another operation with the same business values is still live; conflicting_resource names it where it is known. Wait until that one has ended, or change the values. Nothing was executed.","code":"guard-held","retryable":false}
        {"type":"urn:semel:problem:guard-incomplete","title":"The request does not say what its guard compares","status":400,"detail":"A value that decides whether another operation excludes this one is missing or unknown here. Correct the request. Nothing was executed.","code":"guard-incomplete","retryable":false}
        {"type":"urn:semel:problem:too-late","title":"The request is too old to be told apart from a repetition","status":412,"detail":"Keys are not remembered for that long, so a repetition could not be recognised. Check whether it was done, then use a fresh key. Nothing was executed.","code":"too-late","retryable":false}
        {"type":"urn:semel:problem:origin-unavailable","title":"The origin cannot be reached","status":502,"detail":"No connection could be made, so nothing was executed. Repeat this request with the same key later.","code":"origin-unavailable","retryable":true}
        {"type":"urn:semel:problem:unauthenticated","title":"Who is asking could not be verified","status":401,"detail":"Send credentials that are valid, with the same key. Nothing was looked up, and nothing was executed.","code":"unauthenticated","retryable":false}
        {"type":"urn:semel:problem:identity-unavailable","title":"Who is asking cannot be verified at the moment","status":503,"detail":"Repeat this request with the same key later. Nothing was executed.","code":"identity-unavailable","retryable":true}
        {"type":"urn:semel:problem:quota-exceeded","title":"Too many new operations of this caller","status":429,"detail":"Repeat this request with the same key after the seconds in Retry-After. Requests with keys that were used before are answered as ever. Nothing was executed.","code":"quota-exceeded","retryable":true}"#]].assert_eq(&lines.join("\n"));
}

#[test]
fn a_problem_with_everything() {
    let problem = Problem { original_status: Some(201), retry_after: Some(1), ..Problem::new(ProblemType::ReplyGone) };
    let problem = problem.detail("A \"quoted\" word,\nand another line.");
    expect![[r#"{"type":"urn:semel:problem:reply-gone","title":"This was done, and its reply is no longer kept","status":410,"detail":"A \"quoted\" word,\nand another line.","code":"reply-gone","retryable":true,"original_status":201}"#]].assert_eq(&problem.to_json(StatusCode::GONE));
}

#[test]
fn every_code_is_said_in_one_way() {
    for kind in ProblemType::ALL {
        // What a policy writes under [status] is what a response says.
        let read: ProblemType = serde_json::from_value(kind.code().into()).expect("a code names its type");
        assert_eq!(read, kind);
        assert_eq!(serde_json::to_value(kind).expect("a name"), kind.code());
        assert_eq!(kind.uri(), format!("urn:semel:problem:{}", kind.code()));
    }
}
