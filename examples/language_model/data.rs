//! Text: found, cut into blocks, split, and turned into tokens of a real vocabulary.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use tiktoken_rs::{CoreBPE, cl100k_base};

/// Classes of `cl100k_base`: ids up to 100,276, including the ids of its special tokens.
pub const CLASSES: u32 = 100_277;
/// Stands before a block's first token: `cl100k_base`'s `<|endoftext|>`, which occurs in no text.
const START: u32 = 100_257;
/// Bytes of a block of text; blocks are smaller if there is little text.
const BLOCK_BYTES: usize = 2048;
/// One block in this many is held out.
const HELD_OUT_EVERY: usize = 10;
/// More text than a short run can use.
const MOST_BYTES: usize = 16 << 20;
/// The files and folders of the project's own text, and the extensions of its text files.
const OWN: [&str; 10] = [
    "README.md",
    "MAINTAINING.md",
    "CHANGELOG.md",
    "docs",
    "src",
    "shaders",
    "tests",
    "examples",
    "benches",
    "scripts",
];
const TEXT_EXTENSIONS: [&str; 6] = ["rs", "wgsl", "md", "py", "sh", "toml"];

/// The tokens of a split, with every target and the size of the text.
#[derive(Default)]
pub struct Split {
    /// Every token as a target, and the tokens before it, the nearest first.
    pub samples: Vec<Sample>,
    /// Bytes of the text.
    pub bytes: usize,
    context: usize,
    tokens: Vec<u32>,
}

/// A target's index among the split's tokens, and the number of tokens of its block before it.
#[derive(Clone, Copy)]
pub struct Sample {
    at: usize,
    before: usize,
}

impl Split {
    fn push(&mut self, tokens: &[u32], bytes: usize) {
        let start = self.tokens.len();
        let samples = (0..tokens.len()).map(|before| Sample { at: start + before, before });
        self.samples.extend(samples);
        self.tokens.extend_from_slice(tokens);
        self.bytes += bytes;
    }

    /// How many targets there are.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Bytes of text a token, on average.
    pub fn bytes_per_token(&self) -> f64 {
        self.bytes as f64 / self.len().max(1) as f64
    }

    /// The token to be predicted.
    pub fn target(&self, sample: Sample) -> u32 {
        self.tokens[sample.at]
    }

    /// The tokens before it, the nearest first, with the start token before the block's first.
    pub fn context(&self, sample: Sample) -> impl Iterator<Item = u32> {
        let past = self.tokens[sample.at - sample.before..sample.at].iter().rev().copied();
        past.chain(std::iter::repeat(START)).take(self.context)
    }

    /// At most `count` samples, evenly spread.
    pub fn spread(&self, count: usize) -> Vec<Sample> {
        let count = count.min(self.len());
        (0..count).map(|index| self.samples[index * self.len() / count]).collect()
    }
}

/// The text, split into training and held-out text.
pub struct Corpus {
    /// The training text.
    pub train: Split,
    /// The text that is only evaluated.
    pub held_out: Split,
    /// Log-frequency of every class in the training split, smoothed.
    pub log_unigram: Vec<f32>,
    /// How many files the text came from.
    pub files: usize,
}

impl Corpus {
    /// Reads and splits the text at `path`, or the project's own.
    pub fn read(path: Option<&Path>, context: usize) -> Result<Self, Box<dyn Error>> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = Vec::new();
        match path {
            Some(path) if path.is_dir() => find(path, false, &mut files)?,
            Some(path) => files.push(path.to_path_buf()),
            None => {
                for place in OWN.map(|place| root.join(place)) {
                    if place.is_dir() {
                        find(&place, true, &mut files)?;
                    } else if place.is_file() {
                        files.push(place);
                    }
                }
            }
        }
        let mut texts = Vec::new();
        let mut bytes = 0;
        for file in &files {
            let content = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
            // Skip a file of a folder that is not text; read a file that was named in any case.
            let text = match String::from_utf8(content) {
                Ok(text) => text,
                Err(_) if files.len() > 1 => continue,
                Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
            };
            bytes += text.len();
            texts.push(text);
            if bytes > MOST_BYTES {
                break;
            }
        }
        Self::split(&texts, bytes, context)
    }

    fn split(texts: &[String], bytes: usize, context: usize) -> Result<Self, Box<dyn Error>> {
        let tokeniser: CoreBPE = cl100k_base()?;
        let block_bytes = BLOCK_BYTES.min(bytes / (4 * HELD_OUT_EVERY)).max(1);
        let empty = || Split { context, ..Split::default() };
        let (mut train, mut held_out) = (empty(), empty());
        let blocks = texts.iter().flat_map(|text| blocks(text, block_bytes));
        for (index, block) in blocks.enumerate() {
            let tokens: Vec<u32> = tokeniser.encode_ordinary(block);
            let last = index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1;
            if last { &mut held_out } else { &mut train }.push(&tokens, block.len());
        }
        if train.len() == 0 || held_out.len() == 0 {
            return Err(
                format!("{bytes} bytes of text are too few to hold a part of them out").into()
            );
        }
        let log_unigram = log_unigram(&train);
        Ok(Self { train, held_out, log_unigram, files: texts.len() })
    }

    /// The cross-entropy of these held-out samples under the training split's frequencies, in nats.
    pub fn unigram_loss(&self, samples: &[Sample]) -> f64 {
        let log_prob = |&s: &Sample| f64::from(self.log_unigram[self.held_out.target(s) as usize]);
        -samples.iter().map(log_prob).sum::<f64>() / samples.len() as f64
    }
}

/// The files under a folder, in the order of their names, without hidden files and build folders.
fn find(folder: &Path, own: bool, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        let extension = path.extension().map(|e| e.to_string_lossy().into_owned());
        let is_text = extension.is_none_or(|e| TEXT_EXTENSIONS.contains(&e.as_str()));
        if path.is_dir() {
            find(&path, own, files)?;
        } else if path.is_file() && (!own || is_text) {
            files.push(path);
        }
    }
    Ok(())
}

/// Cuts a text into blocks of whole lines, of `bytes` bytes or a little more; a long line is cut.
fn blocks(text: &str, bytes: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let most = 2 * bytes;
        let after = rest.char_indices().map(|(at, c)| (at + c.len_utf8(), c));
        let end = after.into_iter().find(|&(end, c)| end >= bytes && (c == '\n' || end >= most));
        let (block, left) = rest.split_at(end.map_or(rest.len(), |(end, _)| end));
        rest = left;
        (!block.is_empty()).then_some(block)
    })
}

/// Log-frequencies with α added to every count. α is chosen so that the other training tokens predict each training
/// token best.
fn log_unigram(train: &Split) -> Vec<f32> {
    let mut counts = vec![0u32; CLASSES as usize];
    for &sample in &train.samples {
        counts[train.target(sample) as usize] += 1;
    }
    let total = train.len() as f64;
    let classes = f64::from(CLASSES);
    let left_out = |alpha: f64| {
        let seen = counts.iter().filter(|&&count| count > 0).map(|&count| f64::from(count));
        seen.map(|c| c * (c - 1.0 + alpha).ln()).sum::<f64>()
            - total * (total - 1.0 + alpha * classes).ln()
    };
    let alphas = (0..40).map(|step| 1e-5 * 1.4_f64.powi(step));
    let alpha = alphas.max_by(|&a, &b| left_out(a).total_cmp(&left_out(b))).unwrap_or(1.0);
    let log = |&count: &u32| ((f64::from(count) + alpha) / (total + alpha * classes)).ln() as f32;
    counts.iter().map(log).collect()
}
