//! Links to objects of S3.
//!
//! Only the host is signed: whoever follows a link may send any other header, as browsers and tools do. A link
//! ends no later than the credentials that signed it.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::{
    Client,
    config::{RequestChecksumCalculation, ResponseChecksumValidation},
    presigning::PresigningConfig,
};
use dormouse_core::{
    Error, Result,
    ports::{
        Bucket,
        url_signer::{LinkMethod, UrlSigner, check_life},
    },
};
use object_store::path::Path;

use crate::{clients::Clients, error::from_sdk, objects::named};

/// [`UrlSigner`] on S3.
#[derive(Debug)]
pub struct S3Signer {
    client: Client,
}

impl S3Signer {
    /// A signer with the clients' credentials.
    pub fn new(clients: &Clients) -> Self {
        // Else headers about checksums would be signed too.
        let config = clients
            .s3
            .config()
            .to_builder()
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        Self {
            client: Client::from_conf(config),
        }
    }
}

#[async_trait]
impl UrlSigner for S3Signer {
    async fn sign(&self, method: LinkMethod, bucket: &Bucket, path: &Path, life: Duration) -> Result<String> {
        const DOING: &str = "signing a link";
        check_life(life)?;
        let bucket = named(bucket)?.as_str();
        let config = PresigningConfig::expires_in(life)
            .map_err(|error| Error::invalid("the life of the link is wrong").with_source(error))?;
        let signed = match method {
            LinkMethod::Get => {
                let get = self.client.get_object().bucket(bucket).key(path.as_ref());
                get.presigned(config)
                    .await
                    .map_err(|error| from_sdk(DOING, error))?
            }
            LinkMethod::Put => {
                let put = self.client.put_object().bucket(bucket).key(path.as_ref());
                put.presigned(config)
                    .await
                    .map_err(|error| from_sdk(DOING, error))?
            }
        };
        Ok(signed.uri().to_owned())
    }
}
