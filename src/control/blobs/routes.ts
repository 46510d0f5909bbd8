import type { Readable } from 'node:stream'
import { beginUpload, completeUpload, putPart } from '../../api/control/datasets.ts'
import { Refused } from '../../api/control/problem.ts'
import type { RouteModule } from '../service/routes.ts'
import type { Blobs } from './blobs.ts'
import type { BlobRow } from './rows.ts'

/** Parts that this process holds in memory at the same time. */
const receivingMax = 32

export function uploadRoutes(blobs: Blobs): RouteModule {
  let receiving = 0
  return (serve) => {
    serve(beginUpload, async ({ project, body }) => {
      const { blob, missing } = await blobs.open(project.id, body)
      return view(blob, missing)
    })
    serve(putPart, async ({ project, params, body }) => {
      const number = Number(params.part)
      const expected = await blobs.bytesOfPart(project.id, params.upload, number)
      if (receiving >= receivingMax) {
        throw new Refused('unavailable', 'The service receives as many parts as it can at this moment.', {
          fix: 'Send it again in a moment.',
        })
      }
      receiving++
      try {
        await blobs.putPart(project.id, params.upload, number, await whole(body, expected))
      } finally {
        receiving--
      }
    })
    serve(completeUpload, async ({ project, params }) =>
      view(await blobs.complete(project.id, params.upload), []),
    )
  }
}

async function whole(stream: Readable, expected: number): Promise<Uint8Array> {
  const bytes = Buffer.allocUnsafe(expected)
  let length = 0
  for await (const piece of stream as AsyncIterable<Buffer>) {
    if (length + piece.length > expected) throw wrongLength('more than', expected)
    length += piece.copy(bytes, length)
  }
  if (length < expected) throw wrongLength('less than', expected)
  return bytes
}

function wrongLength(how: string, expected: number): Refused {
  return new Refused('invalid_request', `The part has ${how} ${expected} bytes.`, {
    fix: 'Send it again, whole.',
  })
}

function view(blob: BlobRow, missing: number[]) {
  const { id, digest, bytes, part_bytes, state } = blob
  return { id, digest, bytes, part_bytes, ready: state === 'ready', missing }
}
