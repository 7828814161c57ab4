//! Stub.
mod data;
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let c = data::Corpus::read(None, 8)?;
    for (name, split) in [("train", &c.train), ("held", &c.held_out)] {
        let mut b: Vec<u8> = vec![];
        for &s in &split.samples {
            for t in split.context(s).chain([split.target(s)]) { b.extend(t.to_le_bytes()); }
        }
        std::fs::write(format!("/tmp/t-demo/{name}.bin"), b)?;
    }
    let held = c.held_out.spread(2048);
    println!("{} {} {} {}", c.train.len(), c.held_out.len(), c.train.bytes_per_token(), c.unigram_loss(&held));
    Ok(())
}
