/**
 * TensorBoard's event files: TFRecords (length, masked CRC32C, event, masked CRC32C) of Event messages
 * (tensorflow/core/util/event.proto). Each life of a run has a file; its first event tells TensorBoard to forget what
 * an earlier life said of steps that are done again.
 */
import { appendFile, mkdir } from 'node:fs/promises'
import { hostname } from 'node:os'
import { dirname, join } from 'node:path'
import { maskedCrc32c } from './checksums.ts'
import { bytes, double, float, integer, message, text } from './protobuf.ts'
import type { RunEvent, Sink } from './sink.ts'

export class TensorBoardFile implements Sink {
  readonly name = 'The TensorBoard file'
  readonly path: string

  constructor(folder: string, startedUnixMs: number) {
    const seconds = Math.floor(startedUnixMs / 1000)
    this.path = join(folder, `events.out.tfevents.${seconds}.${hostname()}.${process.pid}.0`)
  }

  async write(events: readonly RunEvent[]): Promise<void> {
    const records = events.flatMap(messagesOf).map(recordOf)
    if (records.length === 0) return
    await mkdir(dirname(this.path), { recursive: true })
    await appendFile(this.path, Buffer.concat(records))
  }
}

function messagesOf(event: RunEvent): Uint8Array[] {
  const time = double(1, event.atMs / 1000)
  if (event.kind === 'start') {
    const start = 1
    return [
      message(time, text(3, 'brain.Event:2')),
      message(time, integer(2, event.stepsDone + 1), bytes(7, integer(1, start))),
    ]
  }
  if (event.kind !== 'metrics') return []
  const values = Object.entries(event.values).map(([tag, value]) =>
    bytes(1, message(text(1, tag), float(2, value))),
  )
  return [message(time, integer(2, event.step), bytes(5, message(...values)))]
}

/** One TFRecord. */
export function recordOf(data: Uint8Array): Uint8Array {
  const record = Buffer.alloc(12 + data.length + 4)
  record.writeBigUInt64LE(BigInt(data.length), 0)
  record.writeUInt32LE(maskedCrc32c(record.subarray(0, 8)), 8)
  record.set(data, 12)
  record.writeUInt32LE(maskedCrc32c(data), 12 + data.length)
  return record
}
