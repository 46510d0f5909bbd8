/**
 * Room that is set aside for a database in a file, and given to it when its disk is full. SQLite needs some even to
 * delete: changes go into a log first, and the log begins anew only when what it holds (4 MiB) has found its place in
 * the database. Once it has, rows can be changed and deleted without more room.
 */
import { randomBytes } from 'node:crypto'
import { existsSync, rmSync, statfsSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import type { Clock } from '../../base/clock.ts'
import { isNoRoom } from '../../base/errors.ts'
import type { Watch } from './watched-driver.ts'

const reserveBytes = 8 << 20
/** So many times of it must be free before it is set aside. */
const freeFactor = 4
/** Nor is it before so long: by a quota, a disk is full on which there is room. */
const againMs = 600_000

export class DiskReserve {
  readonly #path: string
  readonly #clock: Clock
  #givenMs: number | undefined

  constructor(database: string, clock: Clock) {
    this.#path = reserveOf(database)
    this.#clock = clock
  }

  /** Gives it up where a call of the database finds no room; the next call does. */
  readonly watch: Watch = async (_, call) => {
    try {
      return await call()
    } catch (error) {
      if (isNoRoom(error)) this.#give()
      throw error
    }
  }

  /** Sets it aside, where there is room enough again. */
  keep(): void {
    const sinceMs = this.#clock.unixMs() - (this.#givenMs ?? Number.NEGATIVE_INFINITY)
    if (existsSync(this.#path) || sinceMs < againMs) return
    const { bavail, bsize } = statfsSync(dirname(this.#path))
    if (bavail * bsize < freeFactor * reserveBytes) return
    try {
      // What is all alike takes no room on disks that compress.
      writeFileSync(this.#path, randomBytes(reserveBytes), { mode: 0o600 })
    } catch (error) {
      this.#give()
      if (!isNoRoom(error)) throw error
    }
  }

  #give(): void {
    rmSync(this.#path, { force: true })
    this.#givenMs = this.#clock.unixMs()
  }
}

export function reserveOf(database: string): string {
  return `${database}.reserve`
}
