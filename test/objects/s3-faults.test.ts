import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { expect, test } from 'vitest'
import { S3Store } from '../../src/control/objects/s3.ts'
import { S3Client } from '../../src/control/objects/s3-client.ts'
import { partBytesMin } from '../../src/control/objects/store.ts'
import { bytesOf, hash, read, textOf } from './bytes.ts'

type Answer = (response: ServerResponse, request: IncomingMessage) => void

/** A bucket that answers as it is told, one answer a request, and the waits that its client took. */
async function scripted(answers: Answer[]) {
  const asked: string[] = []
  const server = createServer((request, response) => {
    asked.push(`${request.method} ${request.url} ${request.headers.range ?? ''}`.trimEnd())
    request.resume().on('end', () => answers.shift()?.(response, request))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  if (typeof address !== 'object' || address === null) throw new Error('no port')
  const waits: number[] = []
  const place = { bucket: 'b', prefix: '', region: 'r', endpoint: `http://127.0.0.1:${address.port}` }
  const client = new S3Client(place, { accessKeyId: 'id', secretAccessKey: 'hidden' }, 1, {
    sleep: async (ms) => waits.push(ms),
    attemptsMax: 4,
  })
  const close = () => {
    server.closeAllConnections()
    server.close()
  }
  return { store: new S3Store(client), asked, waits, left: answers, [Symbol.dispose]: close }
}

const refuse =
  (status: number, code: string): Answer =>
  (response) =>
    response.writeHead(status).end(`<Error><Code>${code}</Code><Message>not now</Message></Error>`)
const hangUp: Answer = (response) => response.socket?.destroy()
const xml =
  (text: string): Answer =>
  (response) =>
    response.writeHead(200).end(text)
const head =
  (bytes: number): Answer =>
  (response) =>
    response
      .writeHead(200, { 'content-length': bytes, etag: '"t"', 'last-modified': new Date(0).toUTCString() })
      .end()

test('what a store refuses for now, and broken connections, are tried again with growing waits', async () => {
  using bucket = await scripted([refuse(503, 'SlowDown'), hangUp, refuse(500, 'InternalError'), xml('')])
  const bytes = Buffer.from('x')
  await bucket.store.put('k', bytes, hash(bytes))
  expect(bucket.asked).toEqual(Array(4).fill('PUT /b/k'))
  expect(bucket.waits).toHaveLength(3)
  for (const [index, wait] of bucket.waits.entries()) expect(wait).toBeLessThanOrEqual(100 * 2 ** index)
})

test('a refusal for good is not tried again, and names what and why but no secret', async () => {
  using bucket = await scripted([refuse(403, 'SignatureDoesNotMatch')])
  const error = await bucket.store.list().catch((error) => error)
  expect(error).toMatchObject({ failure: 'auth', message: /s3:\/\/b.*SignatureDoesNotMatch: not now/ })
  expect(JSON.stringify({ ...error, message: error.message })).not.toContain('hidden')
  expect(bucket.asked).toHaveLength(1)
})

test('a store that stays away is reported as unreachable after the last attempt', async () => {
  using bucket = await scripted([hangUp, hangUp, hangUp, hangUp])
  await expect(bucket.store.head('k')).rejects.toMatchObject({ failure: 'unreachable' })
  expect(bucket.asked).toHaveLength(4)
})

test('a download that breaks off goes on where it broke', async () => {
  const whole = bytesOf(5, 1000)
  const cut =
    (start: number, count: number): Answer =>
    (response) => {
      response.writeHead(206, { 'content-length': whole.length - start })
      response.write(whole.subarray(start, start + count), () =>
        setImmediate(() => response.socket?.destroy()),
      )
    }
  using bucket = await scripted([head(1000), cut(0, 300), hangUp, cut(300, 500), cut(800, 200)])
  expect(await read((await bucket.store.get('k'))!)).toEqual(whole)
  expect(bucket.asked.slice(1)).toEqual(['0', '300', '300', '800'].map((at) => `GET /b/k bytes=${at}-999`))
})

test('an object that changes between two connections of one download is not mixed', async () => {
  using bucket = await scripted([head(9), refuse(412, 'PreconditionFailed')])
  await expect(textOf(await bucket.store.get('k'))).rejects.toThrow(/was replaced or removed/)
})

test('a completion that answers 200 and then an error is tried again', async () => {
  const parts = xml('<R><Part><PartNumber>1</PartNumber><ETag>"e"</ETag></Part></R>')
  const failed = xml('<?xml version="1.0"?>\n<Error><Code>InternalError</Code></Error>')
  using bucket = await scripted([parts, failed, xml('<CompleteMultipartUploadResult/>')])
  await bucket.store.complete({ key: 'k', id: 'u', bytes: 1, partBytes: partBytesMin })
  expect(bucket.left).toHaveLength(0)
})

test('a completion whose answer was lost is found to have happened', async () => {
  const parts = xml('<R><Part><PartNumber>1</PartNumber><ETag>"e"</ETag></Part></R>')
  using bucket = await scripted([parts, hangUp, refuse(404, 'NoSuchUpload'), head(1)])
  await bucket.store.complete({ key: 'k', id: 'u', bytes: 1, partBytes: partBytesMin })
  expect(bucket.left).toHaveLength(0)
})

test('a bucket of another region is named with its region', async () => {
  using bucket = await scripted([
    (response) => response.writeHead(301, { 'x-amz-bucket-region': 'eu-west-3' }).end('<Error/>'),
  ])
  await expect(bucket.store.list()).rejects.toThrow(/the bucket is in eu-west-3/)
})
