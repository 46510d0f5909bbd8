/** A service with every noun, its loops, and a model of the project that is small enough to fine-tune in seconds. */
import { readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import OpenAI, { toFile } from 'openai'
import { deleteDeployment, listDeployments } from '../../src/api/control/deployments.ts'
import { createKey } from '../../src/api/control/keys.ts'
import { systemClock } from '../../src/base/clock.ts'
import { dataOf, loopStarters } from '../../src/cli/service-parts.ts'
import { bringFile } from '../../src/control/blobs/bring.ts'
import type { Loop } from '../../src/control/service/loop.ts'
import { plainTemplate } from '../../src/train/data/default-templates.ts'
import { runTrainingJob } from '../../src/train/run-job.ts'
import { type Workbench, workbench } from '../cli/command-line.ts'
import { tinyJob } from '../train/tiny-job.ts'

export interface TuningService extends AsyncDisposable {
  readonly bench: Workbench
  readonly client: OpenAI
  readonly project: string
}

/** Without its loops nothing happens but what is asked for. */
export async function tuningService(withLoops = true): Promise<TuningService> {
  const bench = await workbench(systemClock)
  const project = (
    await bench.service.store
      .db<{ projects: { id: string } }>()
      .selectFrom('projects')
      .select('id')
      .executeTakeFirstOrThrow()
  ).id
  await addBase(bench, project)
  const loops: Loop[] = []
  for (const start of withLoops ? loopStarters : []) loops.push(await start(bench.parts))
  const { url, owner } = bench.service
  const key = await owner.call(createKey, {
    params: { project: 'default' },
    body: { name: 'tune' },
  })
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key.key, maxRetries: 0 })
  return {
    ...{ bench, client, project },
    async [Symbol.asyncDispose]() {
      if (withLoops) await endDeployments(bench)
      for (const loop of loops.toReversed()) await loop.stop()
      await bench[Symbol.asyncDispose]()
    },
  }
}

/** Replicas live longer than their server, so they are ended while there is one. */
async function endDeployments({ service: { owner } }: Workbench): Promise<void> {
  const params = { project: 'default' }
  const list = async () => (await owner.call(listDeployments, { params, query: {} })).items
  for (const { name } of await list())
    await owner.call(deleteDeployment, { params: { ...params, deployment: name } })
  while ((await list()).length > 0) await delay(100)
}

/** The model `tiny`: two layers that have read some words. */
async function addBase({ folder, parts }: Workbench, project: string): Promise<void> {
  const model = { architecture: 'llama', layers: 2, heads: 2, width: 32 }
  const job = tinyJob(join(folder, 'base'), {
    ...{ model, tokenizer: { byte_pairs: 280 }, context: 256, steps: 4 },
    evaluate: { every: 100 },
  })
  const { folder: made } = await runTrainingJob(job)
  writeFileSync(join(made, 'chat_template.jinja'), plainTemplate)
  const { blobs, checkpoints, models } = dataOf(parts)
  const files = []
  for (const path of readdirSync(made)) {
    if (path === 'optimizer.safetensors' || path === 'trainer.json') continue
    files.push({ path, blob: (await bringFile(blobs, project, join(made, path))).id })
  }
  const layout = { data: 1, tensor: 1, pipeline: 1, expert: 1 }
  const row = await checkpoints.add(project, { name: 'tiny-base', step: 0, files, layout, description: '' })
  await models.promote(project, row, { model: 'tiny', message: '' })
}

export function chats(count: number): string {
  const lines = Array.from({ length: count }, (_, i) =>
    JSON.stringify({
      messages: [
        { role: 'user', content: `rope ${i}` },
        { role: 'assistant', content: 'the cabin never stops' },
      ],
    }),
  )
  return `${lines.join('\n')}\n`
}

export function preferences(count: number): string {
  const lines = Array.from({ length: count }, (_, i) =>
    JSON.stringify({
      input: { messages: [{ role: 'user', content: `rope ${i}` }] },
      preferred_output: [{ role: 'assistant', content: 'it moves' }],
      non_preferred_output: [{ role: 'assistant', content: 'it stops' }],
    }),
  )
  return `${lines.join('\n')}\n`
}

export async function upload(client: OpenAI, content: string, name = 'chats.jsonl'): Promise<string> {
  const file = await client.files.create({
    file: await toFile(Buffer.from(content), name),
    purpose: 'fine-tune',
  })
  return file.id
}
