//! The services' clients.
//!
//! Credentials, region and endpoints come by the SDK's own chain: environment, profile, web identity, container
//! and instance roles; `AWS_ENDPOINT_URL` and `AWS_ENDPOINT_URL_<SERVICE>`. Clients ask the chain again before
//! credentials end, so they may live as long as the process.

use std::time::Duration;

use aws_config::{BehaviorVersion, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use dormouse_core::{Error, Result};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one attempt at a call may take.
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long one attempt at a call to S3 may take: it copies whole objects.
const S3_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(180);

/// How often the SDK makes a call that is safe to make again.
const SDK_ATTEMPTS: u32 = 4;

/// The clients of one account and region.
#[derive(Clone, Debug)]
pub struct Clients {
    pub(crate) config: SdkConfig,
    /// Makes each call once: what is safe to make again depends on what the call asks for.
    pub(crate) dynamodb: aws_sdk_dynamodb::Client,
    pub(crate) sqs: aws_sdk_sqs::Client,
    pub(crate) s3: aws_sdk_s3::Client,
    pub(crate) ecs: aws_sdk_ecs::Client,
    sts: aws_sdk_sts::Client,
}

impl Clients {
    /// Clients by the SDK's own chain.
    ///
    /// # Errors
    /// `Invalid` when no region is set.
    pub async fn from_environment() -> Result<Self> {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .build();
        let config = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(SDK_ATTEMPTS))
            .load()
            .await;
        Self::from_config(config)
    }

    /// Clients by a configuration.
    ///
    /// # Errors
    /// `Invalid` when it has no region.
    pub fn from_config(config: SdkConfig) -> Result<Self> {
        if config.region().is_none() {
            return Err(Error::invalid(
                "no AWS region is set; set AWS_REGION, or a profile that has one",
            ));
        }
        let dynamodb = aws_sdk_dynamodb::config::Builder::from(&config)
            .retry_config(RetryConfig::disabled())
            .build();
        let s3 = aws_sdk_s3::config::Builder::from(&config)
            .force_path_style(endpoint_of_s3(&config).is_some())
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(CONNECT_TIMEOUT)
                    .operation_attempt_timeout(S3_ATTEMPT_TIMEOUT)
                    .build(),
            )
            .build();
        Ok(Self {
            dynamodb: aws_sdk_dynamodb::Client::from_conf(dynamodb),
            sqs: aws_sdk_sqs::Client::new(&config),
            s3: aws_sdk_s3::Client::from_conf(s3),
            ecs: aws_sdk_ecs::Client::new(&config),
            sts: aws_sdk_sts::Client::new(&config),
            config,
        })
    }

    /// Clients with DynamoDB at another endpoint.
    pub fn with_dynamodb_endpoint(mut self, url: &str) -> Self {
        let config = self.dynamodb.config().to_builder().endpoint_url(url).build();
        self.dynamodb = aws_sdk_dynamodb::Client::from_conf(config);
        self
    }

    /// The region.
    pub(crate) fn region(&self) -> &str {
        self.config.region().map_or("", |region| region.as_ref())
    }

    /// Where S3 is, when that is not AWS.
    pub(crate) fn s3_endpoint(&self) -> Option<String> {
        endpoint_of_s3(&self.config)
    }

    /// The number of the account.
    ///
    /// # Errors
    /// `Unavailable` when the service does not answer or there are no credentials.
    pub async fn account(&self) -> Result<String> {
        let identity = self.sts.get_caller_identity().send().await;
        let identity =
            identity.map_err(|error| crate::error::from_sdk("asking whose credentials these are", error))?;
        identity
            .account
            .ok_or_else(|| Error::unavailable("the credentials belong to no account"))
    }
}

fn endpoint_of_s3(config: &SdkConfig) -> Option<String> {
    std::env::var("AWS_ENDPOINT_URL_S3")
        .ok()
        .filter(|url| !url.is_empty())
        .or_else(|| config.endpoint_url().map(str::to_owned))
        .map(|url| url.trim_end_matches('/').to_owned())
}
