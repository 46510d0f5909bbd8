import { execFile } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { UserError } from '../../src/base/errors.ts'
import { runnerOf } from '../../src/base/processes.ts'
import { type SaveStage, saveAtomic } from '../../src/formats/atomic-file.ts'
import { openGguf } from '../../src/formats/gguf.ts'
import { writeGguf } from '../../src/formats/gguf-write.ts'
import { openSafetensors } from '../../src/formats/safetensors.ts'
import { writeSafetensors } from '../../src/formats/safetensors-write.ts'
import { bytesOfTensor, TemporaryFolder } from './folders.ts'

const ones = { name: 'a', dtype: 'I8', shape: [4096], data: new Uint8Array(4096).fill(1) } as const
const moments: [SaveStage, number][] = [
  ['opened', 1],
  ['piece', 1],
  ['piece', 2],
  ['synced', 1],
  ['renamed', 1],
]

/** Runs save-and-die.ts and gives the signal that ended it. */
function killedSave(path: string, [stage, occurrence]: [SaveStage, number]): Promise<string | null> {
  const script = fileURLToPath(new URL('save-and-die.ts', import.meta.url))
  return new Promise((resolve) => {
    const child = execFile(process.execPath, [...runnerOf(script), script, path, stage, String(occurrence)])
    child.on('exit', (_code, signal) => resolve(signal))
  })
}

test('a process killed at any moment of a save leaves the old safetensors file or the new one, whole', async () => {
  using folder = new TemporaryFolder()
  const found = await Promise.all(
    moments.map(async (moment, index) => {
      const path = folder.file(`${index}.safetensors`)
      writeSafetensors(path, [ones])
      expect(await killedSave(path, moment)).toBe('SIGKILL')
      using source = openSafetensors(path)
      const bytes = bytesOfTensor(source, 'a')
      expect(bytes.every((byte) => byte === bytes[0])).toBe(true)
      return bytes[0]
    }),
  )
  expect(found).toEqual([1, 1, 1, 1, 2])
})

test('a process killed while it saves a GGUF file leaves the old one, and the next save succeeds', async () => {
  using folder = new TemporaryFolder()
  const path = folder.file('m.gguf')
  writeGguf(path, new Map(), [ones])
  const before = readFileSync(path)
  expect(await killedSave(path, ['piece', 3])).toBe('SIGKILL')
  expect(readFileSync(path).equals(before)).toBe(true)
  writeGguf(path, new Map(), [{ ...ones, name: 'b' }])
  using source = openGguf(path)
  expect(source.names()).toEqual(['b'])
})

test.each(moments)(
  'a save that fails when %s (time %i) reports it and leaves no temporary file',
  (stage, occurrence) => {
    using folder = new TemporaryFolder()
    const path = folder.file('m.safetensors')
    writeSafetensors(path, [ones])
    let left = occurrence
    const onStage = (reached: SaveStage) => {
      if (reached === stage && --left === 0) throw new Error('planted')
    }
    const twos = { ...ones, data: new Uint8Array(4096).fill(2) }
    expect(() => writeSafetensors(path, [twos], undefined, { onStage })).toThrow('planted')
    expect(readdirSync(folder.path)).toEqual(['m.safetensors'])
    using source = openSafetensors(path)
    expect(bytesOfTensor(source, 'a')[0]).toBe(stage === 'renamed' ? 2 : 1)
  },
)

test('a full disk is a refusal that says so, and the old file stays', () => {
  using folder = new TemporaryFolder()
  const path = folder.file('m')
  writeFileSync(path, 'old')
  const full = () => {
    throw Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' })
  }
  expect(() => saveAtomic(path, full)).toThrow(UserError)
  expect(() => saveAtomic(path, full)).toThrow(/m cannot be written: ENOSPC/)
  expect(readFileSync(path, 'utf8')).toBe('old')
})

test('a save makes the folders that it needs and replaces no folder', () => {
  using folder = new TemporaryFolder()
  saveAtomic(folder.file('deep/er/m'), (append) => append(Buffer.from('new')))
  expect(readFileSync(folder.file('deep/er/m'), 'utf8')).toBe('new')
  mkdirSync(folder.file('taken/inside'), { recursive: true })
  expect(() => saveAtomic(folder.file('taken'), (append) => append(Buffer.from('new')))).toThrow()
  expect(statSync(folder.file('taken/inside')).isDirectory()).toBe(true)
})
