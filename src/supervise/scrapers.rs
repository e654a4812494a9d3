//! The listener for scrapers of either role, when the configuration asks for one.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;

use crate::admin::{CommonBackend, serve_scrapers};
use crate::config::MetricsConfig;
use crate::tasks::Tasks;

/// Binds and serves; where it listens.
pub(crate) async fn scrapers<B: CommonBackend>(
    config: &MetricsConfig,
    backend: &Arc<B>,
    tasks: &Tasks,
) -> anyhow::Result<Option<SocketAddr>> {
    let Some(address) = config.listen else {
        return Ok(None);
    };
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on tcp {address} (metrics.listen)"))?;
    let bound = listener
        .local_addr()
        .context("reading the metrics address")?;
    let serving = serve_scrapers(listener, Arc::clone(backend), tasks.clone());
    tasks.spawn_critical("scrapers", serving);
    tracing::info!(metrics = %bound, "serving metrics");
    Ok(Some(bound))
}
