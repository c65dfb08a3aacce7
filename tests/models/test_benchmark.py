from recallfront.models.benchmark import benchmark_configs, decoding_costs, interleaved, training_costs


def test_every_architecture_is_measured() -> None:
    costs = training_costs(["griffin", "grouped"], batch=1, length=16, repeats=1)
    assert [cost.architecture for cost in costs] == ["griffin", "grouped"]
    assert all(cost.tokens_per_second > 0 and cost.over_matrices > 1 for cost in costs)


def test_states_are_measured_as_the_context_grows() -> None:
    names = ["griffin", "attention"]
    costs = decoding_costs(names, contexts=(16, 160), batch=2, steps=2, chunk=64)
    assert [(cost.architecture, cost.context) for cost in costs] == [
        (name, context) for name in names for context in (16, 160)
    ]
    configs = benchmark_configs()
    for cost in costs:
        assert cost.state_bytes == 2 * 4 * configs[cost.architecture].state_elements(cost.context)


def test_tasks_take_turns() -> None:
    calls: list[str] = []
    seconds = interleaved([lambda: calls.append("a"), lambda: calls.append("b")], repeats=2)
    assert calls == ["a", "b"] * 3
    assert len(seconds) == 2
