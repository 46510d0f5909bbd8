/**
 * Weights & Biases' offline files, which `wandb sync` takes: Record messages (wandb_internal.proto) in LevelDB's log
 * format, with the zip CRC-32 and a header of W&B's own. Each life of a run has a folder with the same run id.
 */
import { appendFile, mkdir } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { crc32 } from './checksums.ts'
import { bytes, integer, message, text } from './protobuf.ts'
import type { RunEnd, RunEvent, RunMetrics, RunStart, Sink } from './sink.ts'

export interface WandbOptions {
  project: string
  entity?: string | undefined
  name?: string | undefined
  tags?: readonly string[] | undefined
}

const blockBytes = 32_768
const headerBytes = 7
/** What a record's piece is: of LevelDB's log format. */
const pieceKinds = { full: 1, first: 2, middle: 3, last: 4 } as const

export class WandbFile implements Sink {
  readonly name = 'The W&B file'
  readonly folder: string
  readonly #path: string
  readonly #options: WandbOptions
  #started: RunStart | undefined
  #records = 0
  #size = 0

  constructor(out: string, run: string, startedUnixMs: number, options: WandbOptions) {
    const stamp = new Date(startedUnixMs).toISOString().replace(/[-:]/g, '').replace('T', '_').slice(0, 15)
    this.folder = join(out, 'wandb', `offline-run-${stamp}-${run}`)
    this.#path = join(this.folder, `run-${run}.wandb`)
    this.#options = options
  }

  async write(events: readonly RunEvent[]): Promise<void> {
    const [records, size, started] = [this.#records, this.#size, this.#started]
    const parts = events.flatMap((event) => this.#recordsOf(event)).map((record) => this.#framed(record))
    if (parts.length === 0) return
    try {
      await mkdir(this.folder, { recursive: true })
      await appendFile(this.#path, Buffer.concat(size === 0 ? [fileHeader(), ...parts] : parts))
    } catch (error) {
      this.#records = records
      this.#size = size
      this.#started = started
      throw error
    }
  }

  #recordsOf(event: RunEvent): Uint8Array[] {
    if (event.kind === 'start') {
      this.#started = event
      const version = message(text(1, '0.19.0'), text(2, '0.9.20'))
      return [this.#record(21, bytes(1, version)), this.#record(17, this.#run(event))]
    }
    if (event.kind === 'metrics') return [this.#record(2, history(event))]
    return event.kind === 'end' && this.#started !== undefined ? [this.#record(18, this.#exit(event))] : []
  }

  #record(field: number, content: Uint8Array): Uint8Array {
    this.#records++
    return message(integer(1, this.#records), bytes(field, content))
  }

  #run({ run, name, settings, stepsDone, atMs }: RunStart): Uint8Array {
    const { project, entity, name: shown = name, tags = [] } = this.#options
    const config = Object.entries(settings).map(([key, value]) =>
      bytes(1, message(text(1, key), text(16, JSON.stringify(value)))),
    )
    return message(
      text(1, run),
      ...(entity === undefined ? [] : [text(2, entity)]),
      text(3, project),
      bytes(4, message(...config)),
      text(8, shown),
      ...tags.map((tag) => text(10, tag)),
      text(13, hostname()),
      integer(14, stepsDone),
      bytes(17, message(integer(1, atMs / 1000))),
    )
  }

  #exit({ outcome, atMs }: RunEnd): Uint8Array {
    const seconds = (atMs - (this.#started?.atMs ?? atMs)) / 1000
    return message(integer(1, outcome === 'failed' ? 1 : 0), integer(2, seconds))
  }

  /** A record in as many pieces as the blocks of the file ask for. */
  #framed(record: Uint8Array): Uint8Array {
    if (this.#size === 0) this.#size = fileHeader().length
    const parts: Uint8Array[] = []
    let offset = 0
    do {
      const room = blockBytes - (this.#size % blockBytes)
      if (room < headerBytes) {
        parts.push(new Uint8Array(room))
        this.#size += room
        continue
      }
      const length = Math.min(room - headerBytes, record.length - offset)
      const isLast = offset + length === record.length
      const kind = offset === 0 ? (isLast ? 'full' : 'first') : isLast ? 'last' : 'middle'
      const piece = pieceOf(pieceKinds[kind], record.subarray(offset, offset + length))
      parts.push(piece)
      this.#size += piece.length
      offset += length
    } while (offset < record.length)
    return Buffer.concat(parts)
  }
}

function fileHeader(): Uint8Array {
  return Uint8Array.of(...Buffer.from(':W&B'), 0xe1, 0xbe, 0)
}

function pieceOf(kind: number, content: Uint8Array): Uint8Array {
  const piece = Buffer.alloc(headerBytes + content.length)
  piece.writeUInt32LE(crc32(Buffer.concat([Uint8Array.of(kind), content])), 0)
  piece.writeUInt16LE(content.length, 4)
  piece[6] = kind
  piece.set(content, headerBytes)
  return piece
}

function history({ step, values, atMs }: RunMetrics): Uint8Array {
  const items = Object.entries({ ...values, _step: step, _timestamp: atMs / 1000 })
  return message(
    ...items.map(([key, value]) => bytes(1, message(text(1, key), text(16, JSON.stringify(value))))),
    bytes(2, integer(1, step)),
  )
}
