from urllib.request import urlopen

from config.metrics import ProcessMetrics, serve_metrics


def test_counts_are_read_over_http() -> None:
    metrics = ProcessMetrics()
    metrics.task("orchestration.dispatch", "done", 0.02)
    metrics.hint("orchestration.dispatch", "suppressed")
    metrics.parked("bad-envelope", "database")
    server = serve_metrics(metrics, host="127.0.0.1", port=0)

    with urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=5) as response:
        text = response.read().decode()
    server.close()

    assert 'nubabel_tasks_total{outcome="done",task="orchestration.dispatch"} 1.0' in text
    assert 'nubabel_hints_total{outcome="suppressed",task="orchestration.dispatch"} 1.0' in text
    assert 'nubabel_parked_messages_total{kept_in="database",reason="bad-envelope"} 1.0' in text
    assert "process_resident_memory_bytes" in text


def test_ends_are_counted_by_the_organizations_that_operators_named_and_all_others_as_one() -> None:
    metrics = ProcessMetrics(organizations=["org_a"])

    for number in range(50):
        metrics.execution_ended("opencode", "completed", organization_id=f"org_{number}", after_s=1)
    metrics.execution_ended("opencode", "failed", organization_id="org_a", after_s=1)

    (family,) = [one for one in metrics.registry.collect() if one.name == "nubabel_organization_executions_ended"]
    counted = {(*sample.labels.values(), sample.value) for sample in family.samples if sample.name.endswith("_total")}
    assert counted == {("other", "completed", 50.0), ("org_a", "failed", 1.0)}


def test_two_processes_worth_of_metrics_live_side_by_side() -> None:
    first, second = ProcessMetrics(), ProcessMetrics()

    first.hint("orchestration.dispatch", "published")

    assert second.registry.get_sample_value("nubabel_hints_total") is None
