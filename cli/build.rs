//! Packs the reference cases into one archive, which the program holds for `surprisal check`.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use zip::{ZipWriter, write::SimpleFileOptions};

/// The cases as the published crate has them (a link in the repository), and where a checkout without links has them.
const FOLDERS: [&str; 2] = ["vectors", "../tests/vectors"];

fn main() -> io::Result<()> {
    let folder = FOLDERS.iter().map(Path::new).find(|folder| folder.is_dir());
    let folder = folder.ok_or_else(|| io::Error::other("the folder of reference cases is gone"))?;
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", folder.display());
    let files = fs::read_dir(folder)?.map(|file| file.map(|file| file.path()));
    let mut files = files.collect::<io::Result<Vec<PathBuf>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "safetensors"));
    files.sort();
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let mut archive = ZipWriter::new(fs::File::create(out.join("cases.zip"))?);
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        archive.start_file(name, SimpleFileOptions::default().compression_level(Some(9)))?;
        io::copy(&mut fs::File::open(&file)?, &mut archive)?;
    }
    archive.finish()?;
    Ok(())
}
