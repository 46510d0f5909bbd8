import { listMax, type ObjectReader } from '../objects/store.ts'
import { filesMax, type NewFile } from './files.ts'

/** What lies in a user's place now, each file with the tag that it has there. */
export async function listedFiles(place: ObjectReader): Promise<NewFile[]> {
  const files: NewFile[] = []
  for (let after: string | undefined; ; ) {
    const { objects, more } = await place.list({ limit: listMax, ...(after !== undefined && { after }) })
    // Consoles of buckets make empty objects that end with a slash and stand for folders.
    const found = objects.filter(({ key }) => !key.endsWith('/'))
    files.push(...found.map(({ key, bytes, tag }) => ({ path: key, blob_id: null, bytes, digest: tag })))
    if (!more || files.length > filesMax) return files
    after = objects.at(-1)?.key
  }
}
