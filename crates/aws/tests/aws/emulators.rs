//! Emulators of AWS, started for a test and ended with it.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig};
use aws_credential_types::Credentials;
use dormouse_aws::{Clients, Location, Names, objects::S3Buckets};
use dormouse_core::{
    config::InstanceSettings,
    ports::{Clock, SystemClock},
};

/// Emulators that run until this is dropped, or its process ends.
pub(crate) struct Emulators {
    children: Vec<Child>,
    ports: [u16; 2],
}

fn cache() -> PathBuf {
    let cache = std::env::var_os("DORMOUSE_CACHE").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/dormouse");
    cache.unwrap_or_else(home).join("emulators")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// Runs a command that ends when this process does: a shell waits for the end of its input.
fn start(command: &str, environment: &[(&str, String)]) -> Child {
    Command::new("sh")
        .arg("-c")
        .arg(format!(
            "{command} >/dev/null 2>&1 </dev/null & child=$!; cat >/dev/null; kill -9 $child"
        ))
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell")
}

impl Emulators {
    pub(crate) async fn start() -> Self {
        let ministack = cache().join("venv/bin/ministack");
        let dynoxide = cache().join("dynoxide/node_modules/@dynoxide/linux-x64/dynoxide");
        for program in [&ministack, &dynoxide] {
            assert!(
                program.is_file(),
                "no {}; scripts/emulators installs it",
                program.display()
            );
        }
        let ports = [free_port(), free_port()];
        let environment = [
            ("BIND_HOST", "127.0.0.1".to_owned()),
            ("GATEWAY_PORT", ports[0].to_string()),
        ];
        let children = vec![
            start(&ministack.display().to_string(), &environment),
            start(&format!("{} --port {}", dynoxide.display(), ports[1]), &[]),
        ];
        let emulators = Self { children, ports };
        for port in ports {
            emulators.wait_for(port).await;
        }
        emulators
    }

    async fn wait_for(&self, port: u16) {
        for _ in 0..600 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return;
            }
            SystemClock.sleep(Duration::from_millis(50)).await;
        }
        panic!("no emulator answers at port {port}");
    }

    /// Where S3, SQS and ECS are.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// Where DynamoDB is.
    pub(crate) fn dynamodb_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[1])
    }

    pub(crate) fn clients(&self) -> Clients {
        self.clients_at(&self.url(), &self.dynamodb_url())
    }

    /// The configuration of clients of services at this URL.
    pub(crate) fn config(url: &str) -> SdkConfig {
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url(url)
            .credentials_provider(aws_credential_types::provider::SharedCredentialsProvider::new(
                Credentials::new("test", "test", None, None, "tests"),
            ))
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .retry_config(RetryConfig::standard())
            .build()
    }

    /// Clients of services that are behind others.
    pub(crate) fn clients_at(&self, url: &str, dynamodb_url: &str) -> Clients {
        let clients = Clients::from_config(Self::config(url)).expect("clients");
        clients.with_dynamodb_endpoint(dynamodb_url)
    }

    pub(crate) fn location(&self) -> Location {
        Location::new(self.clients(), Names::new("test").expect("names"), None)
    }

    /// An instance with all its parts.
    pub(crate) async fn instance(&self, settings: &InstanceSettings) -> (Location, Arc<S3Buckets>) {
        let location = self.location();
        let buckets = Arc::new(S3Buckets::new(&location.clients, clock()));
        let made = dormouse_aws::setup::init(&location, settings, &buckets).await;
        made.unwrap_or_else(|error| panic!("{}", error.report()));
        (location, buckets)
    }
}

impl Drop for Emulators {
    fn drop(&mut self) {
        for child in &mut self.children {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}

pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

pub(crate) fn settings(text: &str) -> InstanceSettings {
    InstanceSettings::read(text, []).expect("settings")
}
