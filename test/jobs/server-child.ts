/** A server's job loop without HTTP, to be killed: `server-child.ts HOME`. Says `ready` when it runs. */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { createLogger } from '../../src/base/log.ts'
import { runnerOf } from '../../src/base/processes.ts'
import { wrapperEntry } from '../../src/cli/wrapper-entry.ts'
import { sealerFromFile } from '../../src/control/credentials/sealer.ts'
import { JobFolders } from '../../src/control/jobs/folders.ts'
import { LocalWorkplace } from '../../src/control/jobs/launch.ts'
import { startJobLoop } from '../../src/control/jobs/loop.ts'
import { jobMigrations } from '../../src/control/jobs/migration.ts'
import { LocalLauncher } from '../../src/control/launchers/local/local-launcher.ts'
import { openStore } from '../../src/control/store/store.ts'

const home = process.argv[2]!
mkdirSync(home, { recursive: true })
const store = await openStore(join(home, 'ropeway.db'), { migrations: jobMigrations })
const launcher = new LocalLauncher({
  root: join(home, 'runs'),
  devices: { cpu: 2 },
  wrapper: wrapperEntry(),
})
const main = new URL('../../src/cli/main.ts', import.meta.url).pathname
const workplace = new LocalWorkplace({
  folders: new JobFolders(join(home, 'jobs')),
  trainer: [process.execPath, ...runnerOf(main), main],
})
startJobLoop({
  store,
  log: createLogger('test', 'warn'),
  owner: store.ids.next('loop'),
  sealer: sealerFromFile(join(home, 'secrets.key')),
  clusters: new Map([['local', { launcher, workplace }]]),
})
console.log('ready')
