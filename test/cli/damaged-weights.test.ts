import {
  chmodSync,
  cpSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { hashOfFile } from '../../src/base/files.ts'
import { launchEngine } from '../../src/cli/engine-options.ts'
import { sealed } from '../../src/train/checkpoint.ts'
import { sharedData } from '../shared.ts'

const stories = sharedData('models', 'stories260K', 'hf')

describe.skipIf(stories === undefined)('a checkpoint that an engine is started on', () => {
  const place = mkdtempSync(join(tmpdir(), 'ropeway-damaged-'))
  const folder = join(place, 'step-000001')
  const weights = join(folder, 'model.safetensors')

  beforeAll(() => {
    cpSync(stories!, folder, { recursive: true, dereference: true })
    // What is shared may be read-only, and so its copy.
    chmodSync(weights, 0o644)
    const files = readdirSync(folder).map((name) => {
      const path = join(folder, name)
      return [name, { bytes: statSync(path).size, sha256: hashOfFile(path) }]
    })
    const state = { stepsDone: 1, recipe: {}, dataHash: '', best: undefined }
    writeFileSync(
      join(folder, 'trainer.json'),
      sealed({ format: 1, ...state, files: Object.fromEntries(files) }),
    )
  })
  afterAll(() => rmSync(place, { recursive: true }))

  const launch = (path: string, adapters: string[] = []) =>
    launchEngine(path, { device: 'cpu', threads: 1, cacheTokens: 256 }, { quiet: true, adapters })

  test('is served where its weights are what was saved, its texts changed or not', async () => {
    writeFileSync(join(folder, 'chat_template.jinja'), '{{ messages[0].content }}')
    const engine = await launch(folder)
    expect(engine.info.parameters).toBeGreaterThan(200_000)
    await engine.close(0)
  })

  test('is refused where one bit of its weights is another, also as an adapter beside a whole model', async () => {
    const whole = readFileSync(weights)
    const bytes = Buffer.from(whole)
    bytes[bytes.length - 100]! ^= 4
    writeFileSync(weights, bytes)
    const message = `${folder} is damaged: model.safetensors does not have the content that was saved.`
    await expect(launch(folder)).rejects.toMatchObject({ message, failure: 'conflict' })
    await expect(launch(stories!, [folder])).rejects.toMatchObject({ message })
    truncateSync(weights, bytes.length - 100)
    await expect(launch(folder)).rejects.toMatchObject({
      message: `${folder} is damaged: model.safetensors has ${bytes.length - 100} bytes instead of ${bytes.length}.`,
    })
    writeFileSync(weights, whole)
  })
})
