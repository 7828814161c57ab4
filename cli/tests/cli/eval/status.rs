//! What is said of numbers and targets that have no loss.

use surprisal::Array;

use super::{
    Place,
    inputs::{Input, archive, bools, c_order, indices},
    places,
};
use crate::command::{folder, refusal, stdout, surprisal};

/// What `eval` says of the status, everywhere.
fn statuses(loss: &str, settings: &[&str], inputs: &[&Input]) -> Vec<(Place, Vec<String>)> {
    let inputs: Vec<String> =
        inputs.iter().map(|input| format!("{}={}", input.name, input.file)).collect();
    let status = |place: Place| {
        let place_words = place.words();
        let mut words = vec!["eval", loss];
        words.extend(place_words.iter().map(String::as_str));
        for setting in settings {
            let want = setting.strip_prefix("want=");
            words.extend(want.map_or(["--set", setting], |outputs| ["--want", outputs]));
        }
        words.extend(inputs.iter().flat_map(|input| ["--input", input]));
        let text = stdout(&surprisal(&words));
        let lines = text.lines().filter_map(|line| line.strip_prefix("status: "));
        (place, lines.map(str::to_owned).collect())
    };
    places().into_iter().map(status).collect()
}

/// A row that is NaN, and a vector that has no direction, are told of wherever they are met.
#[test]
fn a_status_is_the_same_on_the_reference() {
    const NAN: f64 = f64::NAN;
    let folder = folder("eval-status");
    let file = |name, values: &[f64], shape: &[u64]| {
        c_order(name, &folder, Array::float(shape, values.to_vec()))
    };
    let logits = file("logits", &[0.0, NAN, 1.0, 2.0, 3.0, 4.0], &[2, 3]);
    let spoilt = file("queries", &[1.0, NAN, 0.0, 1.0], &[2, 2]);
    let keys = file("keys", &[1.0, 2.0, 3.0, -1.0], &[2, 2]);
    let rows = "1 row(s) without a loss: a NaN or +inf among their logits, no finite one, a NaN in their weights or \
                target distribution, or a learned temperature outside its domain";
    let zeros = "1 vector(s) of zeros, which nothing normalises";
    let classes = indices("targets", &folder, &[0, 1]);
    let none = "reduction=none";
    let expect = |expected: &str, loss: &str, settings: &[&str], inputs: &[&Input]| {
        for (place, said) in statuses(loss, settings, inputs) {
            assert_eq!(said, [expected], "{loss} {settings:?} on {place:?}");
        }
    };
    for settings in [&[][..], &[none], &["z_loss=0.1", "focal_gamma=2"]] {
        expect(rows, "cross_entropy", settings, &[&logits, &classes]);
    }
    let saved = file("lse", &[NAN, 1.0], &[2]);
    let plain = [0.0, 0.0, 1.0, 2.0, 3.0, 4.0].to_vec();
    let plain = c_order("mean", &folder, Array::float(&[2, 3], plain));
    let plain = Input { name: "logits", ..plain };
    let gradient = "want=grad.logits";
    expect(rows, "cross_entropy", &[gradient], &[&plain, &classes, &saved]);
    expect(rows, "info_nce", &[], &[&spoilt, &keys]);
    expect(rows, "similarity", &[], &[&spoilt, &keys]);
    let zero = file("queries", &[0.0, 0.0, 0.0, 1.0], &[2, 2]);
    for loss in ["info_nce", "similarity", "sigmoid_contrastive"] {
        expect(zeros, loss, &["normalize=true"], &[&zero, &keys]);
        expect("ok", loss, &[], &[&zero, &keys]);
    }
    let labels = indices("labels", &folder, &[1, 1]);
    let features = file("features", &[0.0, 0.0, 0.0, 1.0], &[2, 2]);
    expect(zeros, "sup_con", &[], &[&features, &labels]);
    // The elements of a loss count one by one, the ignored ones never.
    let targets = file("targets", &[0.0, 1.0, 0.0, 1.0, 0.0, 1.0], &[2, 3]);
    let elements = "1 element(s) whose loss is NaN: a NaN or an infinity in their numbers";
    expect(elements, "bce_with_logits", &[], &[&logits, &targets]);
    let mask = bools("mask", &folder, Array::float(&[2, 3], vec![1.0, 0.0, 1.0, 1.0, 1.0, 1.0]));
    expect("ok", "bce_with_logits", &[], &[&logits, &targets, &mask]);
    // One coefficient is one row, whatever it is over, and so is what shares a softmax.
    for per in ["per=row", "per=channel", "per=batch"] {
        expect(rows, "dice", &[per, none], &[&logits, &targets]);
        expect(rows, "dice", &[per], &[&logits, &targets]);
    }
    let spans = r#"spans=[{"kind": "cce", "columns": 2}, {"kind": "mse"}]"#;
    expect(rows, "mixed_columns", &[spans], &[&logits, &targets]);
}

/// A number that no element can have is refused with its row, and after the same words, everywhere.
#[test]
fn a_number_outside_its_domain_is_refused() {
    let folder = folder("eval-domain");
    let columns = |values: &[f64]| Array::float(&[2, 2], values.to_vec());
    for (loss, setting, rate, targets, said) in [
        (
            "poisson_nll",
            "log_input=false",
            [1.0, 1.0, -0.5, 1.0],
            [1.0; 4],
            "first is -0.5, in row 1",
        ),
        (
            "hurdle_poisson",
            "reduction=sum",
            [0.0; 4],
            [1.0, 2.5, 1.0, -1.0],
            "first is 2.5, in row 0",
        ),
        (
            "bce_with_logits",
            "check_targets=true",
            [0.0; 4],
            [1.0, 0.0, 0.0, 7.0],
            "first is 7, in row 1",
        ),
    ] {
        let score = if loss == "poisson_nll" { "rate" } else { "logits" };
        let arrays =
            [(score, columns(&rate)), ("log_rate", columns(&rate)), ("targets", columns(&targets))];
        let inputs = archive(&folder.join(format!("{loss}.npz")), arrays);
        let used =
            inputs.iter().filter(|input| input.name != "log_rate" || loss == "hurdle_poisson");
        let inputs: Vec<String> = used.map(|i| format!("{}={}", i.name, i.file)).collect();
        let refused = places().into_iter().map(|place| {
            let place = place.words();
            let mut words = vec!["eval", loss, "--set", setting];
            words.extend(place.iter().map(String::as_str));
            words.extend(inputs.iter().flat_map(|input| ["--input", input]));
            let output = surprisal(&words);
            let text = String::from_utf8(output.stdout.clone()).unwrap();
            assert!(text.contains("bad value(s), the first in row"), "{text}");
            refusal(&output)
        });
        let refused: Vec<String> = refused.collect();
        assert!(refused[0].contains(said), "{}", refused[0]);
        assert!(refused.iter().all(|text| *text == refused[0]), "{refused:?}");
    }
}
