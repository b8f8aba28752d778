//! The contract against a server that is there already, which `scripts/garage.sh` starts.
//!
//! It wants an empty bucket: `S3_ENDPOINT`, `S3_REGION`, `S3_BUCKET`, and the keys in `AWS_ACCESS_KEY_ID` and
//! `AWS_SECRET_ACCESS_KEY`. It fails where one of them is missing.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

#[path = "../suite/mod.rs"]
mod suite;

use std::env;
use std::sync::Arc;

use store::s3::{S3Config, S3Options, S3Store};
use store::{Error, Store};

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set; `make garage` runs this"))
}

async fn open(prefix: &str, region: &str) -> S3Store {
    let options = S3Options {
        endpoint: Some(variable("S3_ENDPOINT")),
        region: Some(region.to_owned()),
        ..S3Options::default()
    };
    let address = format!("s3://{}/{prefix}", variable("S3_BUCKET"));
    S3Store::open(S3Config::parse(&address, options).unwrap()).await.unwrap()
}

#[tokio::test]
async fn garage_keeps_the_contract() {
    let store = Arc::new(open("contract", &variable("S3_REGION")).await);
    suite::contract(store.clone()).await;
    println!("{:?}", store.usage());
}

#[tokio::test]
async fn garage_says_that_the_region_is_another() {
    let store = open("region", "elsewhere").await;
    let error = store.read(&suite::key("a"), None).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("is in another region") && cause.contains(&variable("S3_REGION")), "{cause}");
}
