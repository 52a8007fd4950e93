//! What users of the log ask the archive for.

use runtime::log::consumer_asked_for;

/// A question for a consumer, by a mirror and by the services of the centre.
pub(crate) fn consumer_question(data: &[u8]) {
    assert_eq!(consumer_asked_for("archive", data), None);
    for user in ["nz1", "consistency", "directory"] {
        let Some(Ok((stream, consumer))) = consumer_asked_for(user, data) else {
            continue;
        };
        // Whatever is asked: it is pulled, it has a name of the user's or none yet, and it reads what is the user's.
        let text = |field: &str| consumer[field].as_str().unwrap_or_default().to_owned();
        assert_eq!(text("deliver_subject"), "", "{consumer}");
        assert_eq!(text("deliver_group"), "", "{consumer}");
        let durable = ["nz1-bulk", "nz1-priority"].contains(&text("durable_name").as_str());
        let named = ["", "nz1-read"].contains(&text("name").as_str()) || durable;
        assert!(
            named && (user == "nz1" || text("name").is_empty()),
            "{consumer}"
        );
        let several = consumer["filter_subjects"].as_array().into_iter().flatten();
        let several = several.map(|one| one.as_str().unwrap().to_owned());
        let filters: Vec<String> = several.chain([text("filter_subject")]).collect();
        let own = |filter: &String| match (user, stream.as_str()) {
            ("nz1", "MIRRORLOG") => filter.starts_with("mirrorlog.log."),
            ("nz1", "MIRRORLOG_ORDER") => filter == "mirrorlog.order.nz1",
            ("nz1", "MIRRORLOG_VERDICT") => filter == "mirrorlog.verdict.*.nz1",
            ("consistency", "MIRRORLOG_REPORT") => filter == "mirrorlog.report.>",
            ("directory", "MIRRORLOG_FEEDBACK") => filter == "mirrorlog.feedback.*.*",
            (_, "MIRRORLOG") => filter == "mirrorlog.log.>",
            (_, "MIRRORLOG_VERDICT") => filter == "mirrorlog.verdict.>",
            (_, bucket) => filter.starts_with(&format!("$KV.{}.", &bucket[3..])),
        };
        let any = filters.iter().filter(|filter| !filter.is_empty());
        assert!(
            any.clone().count() > 0 && any.clone().all(own),
            "{stream} {consumer}"
        );
    }
}
