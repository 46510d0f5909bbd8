import { FolderStore } from '../../src/control/objects/folder.ts'
import { partBytesMin } from '../../src/control/objects/store.ts'
import { bytesOf, hash } from './bytes.ts'

/** A child process for folder.test.ts: uploads one object after another and says each thing that it was told. */
const store = FolderStore.create(process.argv[2]!)
const contents = [bytesOf(1, partBytesMin), bytesOf(2, 99)]
for (let count = 0; ; count++) {
  const upload = await store.begin(`objects/${count}`, partBytesMin + 99, partBytesMin)
  const parts: number[] = []
  const say = (whole: boolean) => process.stdout.write(`${JSON.stringify({ upload, parts, whole })}\n`)
  say(false)
  for (const number of [2, 1]) {
    const bytes = contents[number - 1]!
    await store.putPart(upload, number, bytes, hash(bytes))
    parts.push(number)
    say(false)
  }
  await store.complete(upload)
  say(true)
}
