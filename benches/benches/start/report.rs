//! Rounds of figures, and what they say in the end.

/// What a ratio is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// The base takes at most so many times as long as this one.
    Faster(f64),
    /// This one takes at least so many times as long as the base.
    Slower(f64),
    /// This one takes at most so many times as long as the base.
    Within(f64),
}

#[derive(Debug)]
struct Row {
    name: String,
    goal: Option<Goal>,
    times: Vec<f64>,
    ratios: Vec<f64>,
    latest: Option<f64>,
}

/// Contenders measured in turn.
#[derive(Debug)]
pub(crate) struct Series {
    title: String,
    base: String,
    rows: Vec<Row>,
}

pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

impl Series {
    /// Ratios are to the contender `base`.
    pub(crate) fn new(title: &str, base: &str) -> Self {
        Self { title: title.to_owned(), base: base.to_owned(), rows: Vec::new() }
    }

    /// A contender's figure of this round; `None`: it does not work here.
    pub(crate) fn add(&mut self, name: &str, goal: Option<Goal>, time: Option<f64>) {
        match self.rows.iter_mut().find(|row| row.name == name) {
            Some(row) => row.latest = time,
            None => {
                let (times, ratios) = (Vec::new(), Vec::new());
                self.rows.push(Row { name: name.to_owned(), goal, times, ratios, latest: time });
            }
        }
    }

    pub(crate) fn end_round(&mut self) {
        let base = self.rows.iter().find(|row| row.name == self.base).and_then(|row| row.latest);
        for row in &mut self.rows {
            if let Some(time) = row.latest.take() {
                row.times.push(time);
                row.ratios.extend(base.map(|base| time / base));
            }
        }
    }

    pub(crate) fn print(self) {
        println!("{} (microseconds)", self.title);
        println!("  {:<28} {:>9} {:>9} {:>9}", "", "least", "median", "ratio");
        for row in self.rows {
            let least = row.times.iter().copied().min_by(f64::total_cmp);
            let (Some(least), Some(middle), Some(ratio)) = (least, median(row.times), median(row.ratios))
            else {
                println!("  {:<28} did not run", row.name);
                continue;
            };
            let (shown, verdict) = match row.goal {
                None => (ratio, String::new()),
                Some(Goal::Faster(most)) => {
                    (1.0 / ratio, format!("we take so many times as long; goal: at most {most}"))
                }
                Some(Goal::Slower(least)) => (ratio, format!("goal: at least {least}")),
                Some(Goal::Within(most)) => (ratio, format!("goal: at most {most}")),
            };
            let met = match row.goal {
                None => "",
                Some(Goal::Faster(most) | Goal::Within(most)) if shown <= most => ", met",
                Some(Goal::Slower(least)) if shown >= least => ", met",
                Some(_) => ", MISSED",
            };
            println!("  {:<28} {least:>9.0} {middle:>9.0} {shown:>9.2}  {verdict}{met}", row.name);
        }
        println!();
    }
}
