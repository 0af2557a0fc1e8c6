//! An image of the running program: its own binary and the shared libraries it needs, nothing else.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use image_layers::{Image, ImageBuilder, LayerBuilder, Store};

/// Where the program lies in the image.
pub const PROGRAM: &str = "/bin/quickstart";

/// A file of the image that containers look at, and one of them deletes.
pub const GREETING: &str = "/etc/greeting";

/// Builds the image and stores it as `quickstart:latest`.
pub fn of_this_program(store: &Store) -> Result<Image, Box<dyn Error>> {
    let program = env::current_exe()?;
    let mut libraries = LayerBuilder::new();
    for library in shared_libraries(&program)? {
        libraries = libraries.file(&library, &library, 0o755);
        for alias in aliases(&library)? {
            let target = library.file_name().ok_or("a library without a name")?;
            libraries = libraries.symlink(alias, target);
        }
    }
    if let Some(loader) = interpreter(&fs::read(&program)?) {
        let real = fs::canonicalize(&loader)?;
        if real != loader {
            libraries = libraries.symlink(&loader, real);
        }
    }
    let application = LayerBuilder::new()
        .file(PROGRAM, &program, 0o755)
        .content(GREETING, "hello from the image\n", 0o644)
        .content("/etc/passwd", "root:x:0:0:root:/:\n", 0o644)
        .directory("/tmp", 0o1777);

    // Two layers, as any image has them: what seldom changes below, what changes often on top.
    let image = ImageBuilder::new()
        .layer(libraries)
        .layer(application)
        .entrypoint([PROGRAM, "inside"])
        .build(store, Some(&"quickstart:latest".parse()?))?;
    Ok(image)
}

/// Every other file that is mapped into this process as code: what the loader found for us, it finds again in a container that
/// has the same files at the same places.
fn shared_libraries(program: &Path) -> Result<BTreeSet<PathBuf>, Box<dyn Error>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    Ok(maps
        .lines()
        .filter(|line| line.split_whitespace().nth(1).is_some_and(|mode| mode.contains('x')))
        .filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])))
        .filter(|path| path != program && path.is_file())
        .collect())
}

/// Symbolic links beside a library that lead to it, such as `libc.so.6` to `libc-2.31.so`: programs ask for those names.
fn aliases(library: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let directory = library.parent().ok_or("a library without a directory")?;
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_symlink() && fs::canonicalize(entry.path()).is_ok_and(|real| real == library)
        {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// The loader that a dynamically linked 64-bit ELF program names (its `PT_INTERP` segment; see elf(5)).
fn interpreter(elf: &[u8]) -> Option<PathBuf> {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, bytes: usize| -> Option<u64> {
        let mut wide = [0; 8];
        wide[..bytes].copy_from_slice(elf.get(at..at.checked_add(bytes)?)?);
        Some(u64::from_le_bytes(wide))
    };
    let table = usize::try_from(number(0x20, 8)?).ok()?;
    let (size, count) = (number(0x36, 2)? as usize, number(0x38, 2)? as usize);
    let header = (0..count).map(|i| table + i * size).find(|at| number(*at, 4) == Some(PT_INTERP))?;
    let start = usize::try_from(number(header + 0x08, 8)?).ok()?;
    let length = usize::try_from(number(header + 0x20, 8)?).ok()?;
    let name = elf.get(start..start + length)?.split(|byte| *byte == 0).next()?;
    Some(PathBuf::from(std::str::from_utf8(name).ok()?))
}
