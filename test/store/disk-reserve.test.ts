import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import { DiskReserve, reserveOf } from '../../src/control/store/disk-reserve.ts'

const folder = mkdtempSync(join(tmpdir(), 'ropeway-reserve-'))
afterAll(() => rmSync(folder, { recursive: true, force: true, maxRetries: 9 }))

test('room is set aside, given up when the database finds none, and set aside again later', async () => {
  const clock = new ManualClock(1_700_000_000_000)
  const database = join(folder, 'ropeway.db')
  const reserve = new DiskReserve(database, clock)
  const fails = (code: string) =>
    reserve.watch('delete', async () => {
      throw Object.assign(new Error('database or disk is full'), { code })
    })
  reserve.keep()
  expect(statSync(reserveOf(database)).size).toBe(8 << 20)
  await expect(fails('SQLITE_BUSY')).rejects.toThrow()
  expect(await reserve.watch('delete', async () => 'done')).toBe('done')
  expect(existsSync(reserveOf(database))).toBe(true)
  await expect(fails('SQLITE_FULL')).rejects.toThrow()
  expect(existsSync(reserveOf(database))).toBe(false)
  clock.advance(599_000)
  reserve.keep()
  expect(existsSync(reserveOf(database))).toBe(false)
  clock.advance(1_000)
  reserve.keep()
  expect(existsSync(reserveOf(database))).toBe(true)
})
