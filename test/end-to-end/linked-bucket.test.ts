/** A dataset in a bucket, through the whole service: credential, link, preview, statistics, and a job that reads it. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { loopStarters } from '../../src/cli/service-parts.ts'
import { S3Store } from '../../src/control/objects/s3.ts'
import { S3Client } from '../../src/control/objects/s3-client.ts'
import { ropeway, workbench } from '../cli/command-line.ts'
import { account, azuriteMissing, key, startAzurite } from '../objects/azurite.ts'
import { hash } from '../objects/bytes.ts'
import { startSwift, swiftMissing } from '../objects/swift.ts'

const missing = swiftMissing()
if (missing !== undefined) console.warn(`skipped: a linked bucket on OpenStack Swift (${missing})`)

test.skipIf(missing !== undefined)(
  'a dataset in an S3 bucket is linked, previewed and read by a job',
  async () => {
    const swift = await startSwift()
    await using bench = await workbench(systemClock)
    const loops: { stop(): Promise<void> }[] = []
    try {
      const { accessKeyId, secretAccessKey, endpoint, region } = swift
      const place = { bucket: 'logs', prefix: 'a/b', region, endpoint }
      const client = new S3Client(place, { accessKeyId, secretAccessKey }, 1)
      await client.send({ method: 'PUT' })
      const put = async (text: string) =>
        await new S3Store(client).put('train.jsonl', Buffer.from(text), hash(Buffer.from(text)))
      await put('{"prompt":"how","completion":"so"}\n')
      const run = async (args: string[], stdin = '') => {
        const ran = await ropeway(args, stdin)
        expect(ran, ran.err).toMatchObject({ code: 0 })
        return ran
      }
      const set = [
        '--set',
        `access_key_id=${accessKeyId}`,
        '--set',
        `endpoint=${endpoint}`,
        '--set',
        `region=${region}`,
      ]
      await run(
        ['credential', 'create', 'store', '--kind', 's3', ...set, '--secret', 'secret_access_key'],
        secretAccessKey,
      )
      await run(['dataset', 'link', 'poems', 's3://logs/a/b', '--credential', 'store'])
      expect((await run(['dataset', 'preview', 'poems'])).out).toContain('how')
      expect((await run(['dataset', 'statistics', 'poems', '--json'])).json[0]).toMatchObject({ records: 1 })
      for (const start of loopStarters) loops.push(await start(bench.parts))
      // What lies beside a job file is its workspace.
      mkdirSync(join(bench.folder, 'job'))
      const file = join(bench.folder, 'job', 'job.yml')
      writeFileSync(
        file,
        'name: reader\nrun: [sh, -c, "cat $ROPEWAY_DATA/train.jsonl"]\ndata: dataset:poems\n',
      )
      await run(['job', 'run', '-f', file])
      expect((await run(['job', 'logs', 'reader'])).out).toContain('{"prompt":"how","completion":"so"}')
      // Our own trainer learns from it too.
      await put('{"prompt":"how","completion":"so it turns and turns"}\n'.repeat(30))
      await run(['dataset', 'refresh', 'poems'])
      const learner = {
        name: 'learner',
        model: { architecture: 'gpt2', layers: 1, heads: 2, width: 16 },
        data: { train: 'dataset:poems/train.jsonl' },
        optimizer: { learning_rate: 0.01 },
        ...{ tokenizer: 'characters', context: 48, batch: 2, steps: 6, threads: 1 },
      }
      const training = join(bench.folder, 'job', 'train.yml')
      writeFileSync(training, JSON.stringify(learner))
      await run(['train', training])
      expect((await run(['job', 'view', 'learner', '--json'])).json[0]).toMatchObject({
        ...{ state: 'success', steps_done: 6, metrics: { loss: expect.any(Number) } },
      })
      // So it does where the job file names the bucket itself.
      writeFileSync(
        training,
        JSON.stringify({ ...learner, name: 'direct', data: { train: 's3://logs/a/b/train.jsonl' } }),
      )
      expect((await run(['train', training])).err).toContain('is linked as the dataset direct-b@1')
      expect((await run(['job', 'view', 'direct', '--json'])).json[0]).toMatchObject({
        ...{ state: 'success', steps_done: 6 },
      })
      // What changes in the bucket is noticed, not read as if it were the version.
      await put('{"prompt":"other","completion":"so"}\n')
      const stale = await ropeway(['dataset', 'preview', 'poems'])
      expect(stale).toMatchObject({ code: 6, err: expect.stringMatching(/has changed[\s\S]*refresh/) })
      await run(['dataset', 'refresh', 'poems'])
      expect((await run(['dataset', 'preview', 'poems'])).out).toContain('other')
      expect(bench.service.log.join('')).not.toContain(secretAccessKey)
    } finally {
      for (const loop of loops.toReversed()) await loop.stop()
      await swift.stop()
    }
  },
)

const azureMissing = azuriteMissing()
if (azureMissing !== undefined)
  console.warn(`skipped: a job file that names an Azure container (${azureMissing})`)

test.skipIf(azureMissing !== undefined)(
  'a job file names an Azure container, and our trainer learns from it',
  async () => {
    const azurite = await startAzurite()
    await using bench = await workbench(systemClock)
    const loops: { stop(): Promise<void> }[] = []
    try {
      const text = '{"prompt":"how","completion":"so it turns and turns"}\n'.repeat(30)
      await azurite.put('poems/train.jsonl', Buffer.from(text))
      const set = ['--set', `account=${account}`, '--set', `endpoint=${azurite.endpoint}`]
      const made = ['credential', 'create', 'blobs', '--kind', 'azure-blob', ...set, '--secret', 'key']
      expect((await ropeway(made, key)).code).toBe(0)
      for (const start of loopStarters) loops.push(await start(bench.parts))
      mkdirSync(join(bench.folder, 'job'))
      const file = join(bench.folder, 'job', 'train.yml')
      const job = {
        name: 'blue',
        model: { architecture: 'gpt2', layers: 1, heads: 2, width: 16 },
        data: { train: 'az://tests/poems/train.jsonl' },
        optimizer: { learning_rate: 0.01 },
        ...{ tokenizer: 'characters', context: 48, batch: 2, steps: 4, threads: 1 },
      }
      writeFileSync(file, JSON.stringify(job))
      const ran = await ropeway(['train', file])
      expect(ran.err).toContain('is linked as the dataset blue-poems@1')
      expect((await ropeway(['job', 'view', 'blue', '--json'])).json[0]).toMatchObject({
        ...{ state: 'success', steps_done: 4 },
      })
      expect(bench.service.log.join('')).not.toContain(key)
    } finally {
      for (const loop of loops.toReversed()) await loop.stop()
      await azurite.stop()
    }
  },
)
