//! The sizes of huge pages this machine has, in the names the controller's files use.

use std::sync::OnceLock;

/// From `/sys/kernel/mm/hugepages`; empty where that is not readable. They cannot change while the machine runs.
pub(crate) fn page_sizes() -> &'static [String] {
    static SIZES: OnceLock<Vec<String>> = OnceLock::new();
    SIZES.get_or_init(|| {
        let Ok(entries) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
        entries.filter_map(|entry| size(entry.ok()?.file_name().to_str()?)).collect()
    })
}

/// `hugepages-2048kB` is `2MB`.
fn size(name: &str) -> Option<String> {
    let kilobytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(match kilobytes {
        size if size >= 1 << 20 => format!("{}GB", size >> 20),
        size if size >= 1 << 10 => format!("{}MB", size >> 10),
        size => format!("{size}KB"),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes() {
        let table = [("hugepages-64kB", "64KB"), ("hugepages-2048kB", "2MB"), ("hugepages-1048576kB", "1GB")];
        for (name, want) in table {
            assert_eq!(super::size(name).as_deref(), Some(want));
        }
        assert_eq!(super::size("hugepages-"), None);
    }
}
