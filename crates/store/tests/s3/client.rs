//! A client of that server.

use store::s3::{S3Config, S3Options, S3Store};

use crate::server::{BUCKET, Server};

pub const REGION: &str = "us-east-1";

impl Server {
    /// How a client reaches it.
    pub fn options(&self) -> S3Options {
        S3Options {
            endpoint: Some(self.endpoint()),
            region: Some(REGION.to_owned()),
            credentials_file: Some(self.credentials()),
            ..S3Options::default()
        }
    }

    pub async fn store(&self) -> S3Store {
        open(self.options()).await
    }
}

pub async fn open(options: S3Options) -> S3Store {
    S3Store::open(S3Config::parse(&format!("s3://{BUCKET}/main"), options).unwrap()).await.unwrap()
}
