import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { LineCutter, LogWriter, readLog } from '../../src/control/launchers/local/log-files.ts'

function scratch(): { folder: string } & Disposable {
  const folder = mkdtempSync(join(tmpdir(), 'ropeway-log-'))
  return { folder, [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true, maxRetries: 9 }) }
}

/** All pages from `cursor` on. */
function readAll(folder: string, cursor: string | undefined, ended: boolean) {
  const lines: string[] = []
  for (let at = cursor, pages = 0; ; pages++) {
    const page = readLog(folder, at, 1, ended)
    lines.push(...page.lines.map(({ text }) => text))
    if (page.cursor === at || pages > 10_000) return { lines, cursor: page.cursor, complete: page.complete }
    at = page.cursor
  }
}

test('pages put together are every line once, also across files', () => {
  using room = scratch()
  const writer = new LogWriter(room.folder, 1 << 20, () => 7)
  const written = Array.from({ length: 9000 }, (_, index) => `line ${index} ${'x'.repeat(index % 90)}`)
  let cursor: string | undefined
  const read: string[] = []
  for (const [index, line] of written.entries()) {
    writer.line(index % 2 === 0 ? 'out' : 'err', line)
    if (index % 1000 !== 999) continue
    const part = readAll(room.folder, cursor, false)
    read.push(...part.lines)
    cursor = part.cursor
  }
  writer.close()
  const rest = readAll(room.folder, cursor, true)
  expect([...read, ...rest.lines]).toEqual(written)
  expect(rest.complete).toBe(true)
  expect(readdirSync(room.folder).length).toBeGreaterThan(3)
})

test('a log stays within its limit, keeps the newest lines, and says what it skipped', () => {
  using room = scratch()
  const limit = 8 * (32 << 10)
  const writer = new LogWriter(room.folder, limit, () => 7)
  writer.line('out', 'first')
  const { cursor } = readLog(room.folder, undefined, 1000, false)
  for (let index = 0; index < 60_000; index++) writer.line('out', `line ${index}`)
  writer.close()
  const page = readLog(room.folder, cursor, 1000, true)
  expect(page.skipped).toBe(true)
  // Who reads from the beginning is told too that it is none.
  expect(readLog(room.folder, undefined, 1000, true).skipped).toBe(true)
  const all = readAll(room.folder, cursor, true)
  expect(all.lines.at(-1)).toBe('line 59999')
  expect(all.lines.length * 10).toBeLessThan(limit * 1.1)
})

test('lines end at line feeds and carriage returns, and a character that arrives in halves is whole', () => {
  const lines: string[] = []
  const cutter = new LineCutter((line) => lines.push(line))
  const bytes = Buffer.from('10 %\r20 %\r\nfertig: 완료\nrest')
  for (const byte of bytes) cutter.push(Uint8Array.of(byte))
  cutter.end()
  expect(lines.filter((line) => line !== '')).toEqual(['10 %', '20 %', 'fertig: 완료', 'rest'])
})

test('a line without end is cut and does not grow in memory', () => {
  const lengths: number[] = []
  const cutter = new LineCutter((line) => lengths.push(line.length))
  for (let piece = 0; piece < 100; piece++) cutter.push(Buffer.alloc(10_000, 120))
  cutter.end()
  expect(Math.max(...lengths)).toBe(32 << 10)
  expect(lengths.reduce((sum, length) => sum + length, 0)).toBe(1_000_000)
})

test('a cursor that no page gave reads from the beginning or from nowhere, and never throws', () => {
  using room = scratch()
  const writer = new LogWriter(room.folder, 1 << 20, () => 7)
  writer.line('out', 'only')
  writer.close()
  for (const cursor of ['', 'x', '../../etc/passwd:0', '-1:0', '1:-5'])
    expect(readLog(room.folder, cursor, 100, true).lines.map(({ text }) => text)).toEqual(['only'])
  for (const cursor of ['99:0', '1:99999']) expect(readLog(room.folder, cursor, 100, true).lines).toEqual([])
})
