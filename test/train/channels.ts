import { expect } from 'vitest'
import type { Channel } from '../../src/train/parallel/team.ts'

/** Ranks in one process: what one sends waits until the other takes it. */
export function channels(size: number): Channel[] {
  const boxes = new Map<string, { full: Uint8Array[]; waiting: ((bytes: Uint8Array) => void)[] }>()
  const box = (from: number, to: number) => {
    const key = `${from} ${to}`
    if (!boxes.has(key)) boxes.set(key, { full: [], waiting: [] })
    return boxes.get(key)!
  }
  return Array.from({ length: size }, (_, rank): Channel => {
    const send = async (bytes: Uint8Array, to: number) => {
      const { full, waiting } = box(rank, to)
      const copy = Uint8Array.from(bytes)
      const taker = waiting.shift()
      if (taker === undefined) full.push(copy)
      else taker(copy)
    }
    const receive = async (into: Uint8Array, from: number) => {
      const { full, waiting } = box(from, rank)
      const bytes = full.shift() ?? (await new Promise<Uint8Array>((resolve) => waiting.push(resolve)))
      expect(bytes.length).toBe(into.length)
      into.set(bytes)
    }
    const broadcast = async (bytes: Uint8Array, from: number) => {
      if (rank !== from) return await receive(bytes, from)
      for (let to = 0; to < size; to++) if (to !== rank) await send(bytes, to)
    }
    return { rank, size, send, receive, broadcast }
  })
}
