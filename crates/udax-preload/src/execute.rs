//! exec. A descriptor that the new program inherits would take its lease along, with nobody there to answer a break: leases are given
//! back first. Half of the family is variadic, so all of it is entered and left by trampoline.

use crate::errno::Kept;
use crate::real::Symbol;
use crate::state;
use crate::trampoline::{any_arguments, target};
use libc::{c_int, c_void};
use std::arch::naked_asm;

/// Before the program is replaced.
pub(crate) fn before_exec() {
    state::ask(udax::program::Program::before_exec);
}

/// One function of the family: where libc's is, what comes first, and the way there.
macro_rules! exec {
    ($($name:ident $symbol:ident $hook:ident $c_name:literal;)*) => {
        $(
            static $symbol: Symbol = Symbol::new($c_name);

            extern "C" fn $hook() -> *mut c_void {
                let _errno = Kept::now();
                before_exec();
                target(&$symbol)
            }

            /// See exec(3), execve(2).
            ///
            /// # Safety
            /// As the C function, with all its arguments.
            #[unsafe(no_mangle)]
            #[unsafe(naked)]
            pub(crate) unsafe extern "C" fn $name() -> c_int {
                any_arguments!($hook);
            }
        )*

        /// Looks all of them up.
        pub(crate) fn resolve() {
            for symbol in [$(&$symbol),*] {
                symbol.address();
            }
        }
    };
}

exec! {
    execve EXECVE before_execve c"execve";
    execv EXECV before_execv c"execv";
    execvp EXECVP before_execvp c"execvp";
    execvpe EXECVPE before_execvpe c"execvpe";
    execl EXECL before_execl c"execl";
    execlp EXECLP before_execlp c"execlp";
    execle EXECLE before_execle c"execle";
    fexecve FEXECVE before_fexecve c"fexecve";
    execveat EXECVEAT before_execveat c"execveat";
}
