import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { Device } from '../../../src/runtime/device.ts'
import { exportModel } from '../../../src/train/export/export.ts'
import { refusalOf } from '../../formats/folders.ts'
import { sharedData } from '../../shared.ts'

const stories = sharedData('models', 'stories260K', 'hf')

describe.skipIf(stories === undefined)('an export', () => {
  const device = new Device({ device: 'cpu', threads: 1 })
  const root = mkdtempSync(join(tmpdir(), 'ropeway-broken-'))
  afterAll(() => rmSync(root, { recursive: true, force: true, maxRetries: 9 }))

  /** The model with other words, as long, in the header of its weights. */
  function changed(name: string, change: (header: string) => string): string {
    const folder = join(root, name)
    cpSync(stories!, folder, { recursive: true, dereference: true })
    const path = join(folder, 'model.safetensors')
    const bytes = readFileSync(path)
    const end = 8 + Number(bytes.readBigUInt64LE())
    const header = bytes.toString('utf8', 8, end)
    const now = change(header)
    expect([now === header, now.length]).toEqual([false, header.length])
    bytes.write(now, 8)
    rmSync(path)
    writeFileSync(path, bytes)
    return folder
  }

  const broken = {
    'that lacks a tensor': [
      (header: string) => header.replace('"model.layers.1.mlp.up_proj.', '"model.layers.1.mlp.up_gone.'),
      /has no tensor model\.layers\.1\.mlp\.up_proj\.weight/,
    ],
    'whose tensor lies on its side': [
      (header: string) =>
        header.replace(
          /("model\.layers\.1\.mlp\.up_proj\.weight":[^}]*"shape":)\[(\d+), ?(\d+)\]/,
          '$1[$3,$2]',
        ),
      /tensor model\.layers\.1\.mlp\.up_proj\.weight has shape \[64,172\], config\.json implies \[172,64\]/,
    ],
  } as const
  for (const [how, [change, refusal]] of Object.entries(broken)) {
    for (const form of ['safetensors', 'gguf'] as const) {
      test(`of a model ${how} as ${form} is refused before anything is written`, () => {
        const from = changed(`${how} ${form}`, change)
        const to = join(root, 'out', form === 'gguf' ? 'model.gguf' : 'model')
        expect(refusalOf(() => exportModel({ from, to, form }, device))).toMatch(refusal)
        expect(existsSync(join(root, 'out'))).toBe(false)
      })
    }
  }
})
