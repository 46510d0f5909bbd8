import type { SaveStage } from '../../src/formats/atomic-file.ts'
import { writeGguf } from '../../src/formats/gguf-write.ts'
import { writeSafetensors } from '../../src/formats/safetensors-write.ts'

/** A child process for atomic.test.ts: saves a file of twos and kills itself without warning at one moment. */
const [path, stage, occurrence] = process.argv.slice(2) as [string, SaveStage, string]
let left = Number(occurrence)
const options = {
  onStage: (reached: SaveStage) => {
    if (reached === stage && --left === 0) process.kill(process.pid, 'SIGKILL')
  },
}
const tensors = ['a', 'b'].map(
  (name) => ({ name, dtype: 'I8', shape: [4096], data: new Uint8Array(4096).fill(2) }) as const,
)
if (path.endsWith('.gguf')) writeGguf(path, new Map(), tensors, options)
else writeSafetensors(path, tensors, undefined, options)
