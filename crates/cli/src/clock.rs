//! The clock of this process.

use std::{env, sync::Arc, time::Duration};

use async_trait::async_trait;
use dormouse_core::{
    Error, Result,
    ports::{Clock, SystemClock},
    time::Timestamp,
};

/// For tests of clock skew only: seconds by which the clock of this process is wrong, such as -600.
const OFFSET_SECONDS: &str = "DORMOUSE_CLOCK_OFFSET_SECONDS";

/// The operating system's clock, off by [`OFFSET_SECONDS`] when the environment has it.
///
/// # Errors
/// `Invalid` when the variable is no whole number.
pub(crate) fn clock() -> Result<Arc<dyn Clock>> {
    let Some(text) = env::var_os(OFFSET_SECONDS) else {
        return Ok(Arc::new(SystemClock));
    };
    let seconds = text.to_str().and_then(|text| text.parse().ok());
    let seconds: i64 = seconds.ok_or_else(|| {
        Error::invalid(format!(
            "environment variable {OFFSET_SECONDS} must be whole seconds"
        ))
    })?;
    Ok(Arc::new(WrongClock { seconds }))
}

#[derive(Debug)]
struct WrongClock {
    seconds: i64,
}

#[async_trait]
impl Clock for WrongClock {
    fn now(&self) -> Timestamp {
        let offset = Duration::from_secs(self.seconds.unsigned_abs());
        match self.seconds {
            0.. => SystemClock.now().plus(offset),
            _ => SystemClock.now().minus(offset),
        }
    }

    async fn sleep(&self, duration: Duration) {
        SystemClock.sleep(duration).await;
    }
}
