//! The tracing layer: gathers an event's fields and those of its spans, and hands one line on.

use std::fmt;

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::line::{Fields, Line, Style};
use crate::times::Clock;

/// Takes a finished line, with its line end.
type Sink = Box<dyn Fn(&[u8]) + Send + Sync>;

/// Writes every event that reaches it.
pub(super) struct LogLayer {
    style: Style,
    sink: Sink,
}

impl LogLayer {
    pub(super) fn new(style: Style, sink: Sink) -> Self {
        Self { style, sink }
    }
}

impl fmt::Debug for LogLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogLayer")
            .field("style", &self.style)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for LogLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attrs: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        let mut fields = Fields::default();
        attrs.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        // Innermost span first: the nearest says it best.
        for span in ctx.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.inherit(outer);
            }
        }
        let line = Line {
            at: Clock.now().wall,
            level: *event.metadata().level(),
            target: event.metadata().target(),
            fields,
        };
        (self.sink)(line.render(&self.style).as_bytes());
    }
}
