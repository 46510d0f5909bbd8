/** A form with one file (multipart/form-data, RFC 7578), written to disk as it comes. */
import { createWriteStream } from 'node:fs'
import type { IncomingHttpHeaders } from 'node:http'
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { Busboy, type BusboyHeaders } from '@fastify/busboy'
import { messageOf } from '../../base/errors.ts'
import { Problem } from '../../http/problem.ts'

export interface FormLimits {
  readonly fileBytesMax: number
  readonly fieldsMax: number
  readonly fieldBytesMax: number
}

export interface Form {
  readonly fields: Readonly<Record<string, string>>
  /** Of the file named `file`; undefined when there was none. */
  readonly filename: string | undefined
  readonly bytes: number
}

/** Writes the form's file to `path`. Throws {@link Problem} for what is no such form or is too large. */
export async function readForm(
  body: Readable,
  headers: IncomingHttpHeaders,
  path: string,
  limits: FormLimits,
): Promise<Form> {
  if (!/^multipart\/form-data\s*;/i.test(headers['content-type'] ?? ''))
    throw new Problem(415, 'unsupported_media_type', 'Send a form: content-type: multipart/form-data.')
  const { fileBytesMax, fieldsMax, fieldBytesMax } = limits
  const parser = openParser(headers, {
    fileSize: fileBytesMax,
    files: 1,
    fields: fieldsMax,
    fieldSize: fieldBytesMax,
  })
  const fields: Record<string, string> = {}
  let filename: string | undefined
  let written: Promise<number> | undefined
  parser.on('field', (name, value) => {
    fields[name] = value
  })
  parser.on('file', (name, stream, given) => {
    if (name !== 'file') return void stream.resume()
    filename = given
    written = writeTo(stream, path)
    // Whoever waits for the form hears of it; until then nobody does.
    written.catch(() => undefined)
  })
  try {
    await pipeline(body, parser)
  } catch (error) {
    await written?.catch(() => undefined)
    throw new Problem(400, 'invalid_form', `The form cannot be read: ${messageOf(error)}.`)
  }
  return { fields, filename, bytes: (await written) ?? 0 }
}

function openParser(headers: IncomingHttpHeaders, limits: object): InstanceType<typeof Busboy> {
  try {
    return new Busboy({ headers: headers as BusboyHeaders, limits })
  } catch (error) {
    throw new Problem(400, 'invalid_form', `The form cannot be read: ${messageOf(error)}.`)
  }
}

type FileStream = Readable & { truncated?: boolean }

async function writeTo(stream: FileStream, path: string): Promise<number> {
  let bytes = 0
  stream.on('data', (piece: Buffer) => {
    bytes += piece.length
  })
  await pipeline(stream, createWriteStream(path, { flags: 'wx', mode: 0o600 }))
  if (stream.truncated === true) throw new Problem(413, 'file_too_large', 'The file is too large.')
  return bytes
}
