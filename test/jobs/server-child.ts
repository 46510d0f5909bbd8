/** A server's job loop without HTTP, to be killed: `server-child.ts HOME`. Says `ready` when it runs. */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { JobFolders } from '../../src/control/jobs/folders.ts'
import { LocalWorkplace } from '../../src/control/jobs/launch.ts'
import { JobLoop } from '../../src/control/jobs/loop.ts'
import { jobsMigration } from '../../src/control/jobs/migration.ts'
import { LocalLauncher } from '../../src/control/launchers/local/local-launcher.ts'
import { openStore } from '../../src/control/store/store.ts'

const home = process.argv[2]!
mkdirSync(home, { recursive: true })
const store = await openStore(join(home, 'ropeway.db'), { migrations: [jobsMigration] })
const launcher = new LocalLauncher({
  root: join(home, 'runs'),
  devices: { cpu: 2 },
  wrapper: new URL('../../src/cli/run-wrapper.ts', import.meta.url),
})
const main = new URL('../../src/cli/main.ts', import.meta.url).pathname
const workplace = new LocalWorkplace({
  folders: new JobFolders(join(home, 'jobs')),
  trainer: [process.execPath, '--import', import.meta.resolve('tsx'), main],
})
const loop = new JobLoop({
  store,
  clusters: new Map([['local', { launcher, workplace }]]),
  onTrouble: (job, error) => console.error(job, error),
})
loop.start()
console.log('ready')
