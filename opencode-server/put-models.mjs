// put-models.mjs <template> <target>: oh-my-opencode reads no environment variables, so they are written into its file.
// "$MODEL_DEEP" becomes OPENCODE_MODEL_DEEP, or OPENCODE_MODEL where that is not set.
import { readFileSync, writeFileSync } from "node:fs";

const [template, target] = process.argv.slice(2);
const fallback = process.env.OPENCODE_MODEL;

const text = readFileSync(template, "utf8").replace(/"\$(MODEL\w*)"/g, (_, name) => {
  const model = process.env[`OPENCODE_${name}`] || fallback;
  if (!/^[^\s/]+\/\S+$/.test(model ?? "")) {
    console.error(`OPENCODE_${name} must have the form provider/model`);
    process.exit(1);
  }
  return JSON.stringify(model);
});
writeFileSync(target, text);
