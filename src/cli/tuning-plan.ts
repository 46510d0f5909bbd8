/**
 * A process of its own that reads what a fine-tuning job would learn from: the service loads no tokenizer, and a file
 * that is too much for the memory ends this process and not the service. A request by stdin, a plan by stdout.
 */
import { text } from 'node:stream/consumers'
import type { Planned, PlanRequest } from '../control/tuning/loop.ts'
import { planFineTuning } from '../train/fine-tuning-plan.ts'

const { workspace, request } = JSON.parse(await text(process.stdin)) as {
  workspace: string
  request: PlanRequest
}
const plan: Planned = await planFineTuning(request, workspace)
process.stdout.write(JSON.stringify(plan))
