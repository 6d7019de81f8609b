"""Counting what an execution `exe` of a WITH list has used, in the statement that says so."""

ADD_USAGE = """
  INSERT INTO usage (execution_id, model, organization_id, day, input_tokens, output_tokens, reasoning_tokens,
    cache_read_tokens, cache_write_tokens, cost, lower_bound, cost_computed)
  SELECT exe.id, u.model, exe.organization_id, (now() AT TIME ZONE 'UTC')::date, u.input_tokens, u.output_tokens,
    u.reasoning_tokens, u.cache_read_tokens, u.cache_write_tokens, u.cost, u.lower_bound, u.cost_computed
  FROM exe, jsonb_to_recordset(%(usage_rows)s) AS u(
    model text, input_tokens bigint, output_tokens bigint, reasoning_tokens bigint, cache_read_tokens bigint,
    cache_write_tokens bigint, cost numeric, lower_bound boolean, cost_computed boolean)
  ON CONFLICT (execution_id, model) DO UPDATE
  SET input_tokens = usage.input_tokens + EXCLUDED.input_tokens,
    output_tokens = usage.output_tokens + EXCLUDED.output_tokens,
    reasoning_tokens = usage.reasoning_tokens + EXCLUDED.reasoning_tokens,
    cache_read_tokens = usage.cache_read_tokens + EXCLUDED.cache_read_tokens,
    cache_write_tokens = usage.cache_write_tokens + EXCLUDED.cache_write_tokens,
    cost = usage.cost + EXCLUDED.cost, lower_bound = usage.lower_bound OR EXCLUDED.lower_bound,
    cost_computed = usage.cost_computed OR EXCLUDED.cost_computed
"""
