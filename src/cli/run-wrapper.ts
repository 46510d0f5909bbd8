/** What the parent process of a local run's member runs: its argument is the member's folder. */
import { runWrapper } from '../control/launchers/local/wrapper.ts'

await runWrapper(process.argv[2]!)
process.exit(0)
