// A run ends when its session is idle. A background task would wake the session again after that, and its answer would
// find nobody waiting. The config has no switch for it, so the tool call is refused; the model then repeats it in the
// foreground. Also holds for sub-agents.
export const ForegroundOnly = async () => ({
  "tool.execute.before": async ({ tool }, { args }) => {
    if (args?.run_in_background) {
      throw new Error(`${tool}: run_in_background is not available here; call it again with run_in_background=false`);
    }
  },
});
