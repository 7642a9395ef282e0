//! The ratios as a picture.

use super::report::Row;
use std::path::Path;

pub(super) fn write(_path: &Path, _rows: &[Row], _file_system: &str) -> anyhow::Result<()> {
    anyhow::bail!("no plot yet")
}
