//! Reading suspect pages once more.
//!
//! A page can be caught while the server writes it, half old and half new, with the old half's LSN: its checksum fails, its LSN
//! does not excuse it, and yet WAL mends it. The server's own base backup reads such a page again before it believes it. BASE_BACKUP
//! gives each byte once, so this goes through SQL, which a role needs a grant for; without one the page stays suspect.

use pgformat::page::{self, PageState};
use pgformat::{Lsn, RelationFile};
use replication::ConnectConfig;
use replication::sql::{self, SqlClient};
use repository::record::CorruptPage;

use super::split::RELATION_FILE_BYTES;

const QUESTION: &str = "select pg_read_binary_file($1, $2, $3, true)";

/// Those of the pages that are corrupt when read again, or that cannot be.
pub(super) async fn still_corrupt(
    config: &ConnectConfig,
    pages: Vec<CorruptPage>,
    block_size: u32,
    start: Lsn,
) -> Vec<CorruptPage> {
    if pages.is_empty() {
        return pages;
    }
    let client = match sql::connect(config).await {
        Ok(client) => client,
        Err(error) => {
            tracing::info!("suspect pages cannot be read again: {error}");
            return pages;
        }
    };
    let mut corrupt = Vec::new();
    for page in pages {
        match is_corrupt(&client, &page, block_size, start).await {
            Ok(false) => tracing::info!(
                path = page.path,
                block = page.block,
                "the page was only being written; WAL mends it"
            ),
            Ok(true) => corrupt.push(page),
            Err(error) => {
                tracing::info!(
                    path = page.path,
                    block = page.block,
                    "a suspect page cannot be read again: {error}"
                );
                corrupt.push(page);
            }
        }
    }
    corrupt
}

async fn is_corrupt(
    client: &SqlClient,
    page: &CorruptPage,
    block_size: u32,
    start: Lsn,
) -> Result<bool, replication::Error> {
    let offset = i64::from(page.block) * i64::from(block_size);
    let len = i64::from(block_size);
    let row = client.query_one(QUESTION, &[&page.path, &offset, &len]).await?;
    let bytes: Option<Vec<u8>> = row.get(0);
    // A file that is gone or shorter now has lost the page, and WAL says so.
    let Some(bytes) = bytes.filter(|bytes| bytes.len() as u64 == u64::from(block_size)) else {
        return Ok(false);
    };
    let segment = RelationFile::parse(&page.path).map_or(0, |relation| relation.segment);
    let first = u64::from(segment) * (RELATION_FILE_BYTES / u64::from(block_size));
    let block = u32::try_from(first + u64::from(page.block)).unwrap_or(page.block);
    Ok(matches!(page::verify(&bytes, block, start), PageState::Corrupt { .. }))
}
