//! A body on its way to the server.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::limit::{Bandwidth, PIECE_BYTES_MAX, Progress};
use super::usage::Counters;
use crate::Body;

/// Hands the chunks of a [`Body`] to the network in small pieces, none of them copied, no faster than allowed.
pub(crate) struct Upload {
    chunks: VecDeque<Bytes>,
    left: u64,
    limit: Option<Arc<Bandwidth>>,
    waiting: Option<Pin<Box<Sleep>>>,
    progress: Arc<Progress>,
    counters: Arc<Counters>,
}

impl Upload {
    pub(crate) fn new(
        body: &Body,
        limit: Option<Arc<Bandwidth>>,
        progress: Arc<Progress>,
        counters: Arc<Counters>,
    ) -> Upload {
        let chunks = body.chunks().iter().filter(|chunk| !chunk.is_empty()).cloned().collect();
        Upload { chunks, left: body.len(), limit, waiting: None, progress, counters }
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let Some(chunk) = this.chunks.front_mut() else { return Poll::Ready(None) };
        let piece_max = this.limit.as_ref().map_or(PIECE_BYTES_MAX, |limit| limit.piece_bytes());
        let piece = chunk.len().min(piece_max);
        if let Some(limit) = &this.limit {
            loop {
                if let Some(waiting) = &mut this.waiting {
                    ready!(waiting.as_mut().poll(context));
                    this.waiting = None;
                }
                let Err(wait) = limit.take(piece) else { break };
                this.progress.holds_still_for(wait);
                this.waiting = Some(Box::pin(sleep(wait)));
            }
        }
        let data = chunk.split_to(piece);
        if chunk.is_empty() {
            this.chunks.pop_front();
        }
        this.left -= data.len() as u64;
        this.progress.moved();
        this.counters.sent(data.len());
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.chunks.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
