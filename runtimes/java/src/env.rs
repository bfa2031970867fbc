//! The functions of JNI that are used here, for a thread that is attached.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::null_mut;

use jni_sys::{
    JNIEnv, JNINativeInterface__1_6, JNINativeMethod, jbyte, jclass, jint, jlong, jmethodID,
    jobject, jvalue,
};

/// The JNI of the calling thread. It must not leave the thread.
#[derive(Debug, Clone, Copy)]
pub struct Env(*mut JNIEnv);

/// What was thrown, in words; it is not pending any more.
#[derive(Debug)]
pub struct Thrown(pub String);

/// What a call gives, or what it has thrown.
pub type Result<T> = std::result::Result<T, Thrown>;

impl Env {
    /// Wraps a pointer of JNI's.
    ///
    /// # Safety
    /// It is that of the calling thread, which stays attached while this is
    /// used.
    pub unsafe fn new(env: *mut JNIEnv) -> Self {
        Self(env)
    }

    /// The table of functions, of which every JVM has those of version 1.6.
    fn table(&self) -> &JNINativeInterface__1_6 {
        // SAFETY: by the contract of `new`; the table lives as long as the JVM.
        unsafe { &(**self.0).v1_6 }
    }

    /// What a call gave, unless it has thrown.
    fn unless_thrown<T>(&self, value: T) -> Result<T> {
        match self.take_thrown() {
            None => Ok(value),
            Some(thrown) => Err(thrown),
        }
    }

    /// What is pending, in words.
    pub fn take_thrown(&self) -> Option<Thrown> {
        let table = self.table();
        // SAFETY: the thread is attached, by the contract of `new`; so it is in
        // all of the calls below. Both may be called with something pending; it
        // is cleared before anything else is called.
        let thrown = unsafe {
            let thrown = (table.ExceptionOccurred)(self.0);
            if thrown.is_null() {
                return None;
            }
            (table.ExceptionClear)(self.0);
            thrown
        };
        let text = self.text_of(thrown);
        self.delete_local(thrown);
        Some(Thrown(text.unwrap_or_else(|| {
            "an exception that cannot be described".to_owned()
        })))
    }

    /// `object.toString()`.
    fn text_of(&self, object: jobject) -> Option<String> {
        let table = self.table();
        // SAFETY: the signature is that of Object.toString, which every object
        // has. What it throws is dropped: there is no better description.
        unsafe {
            let class = (table.GetObjectClass)(self.0, object);
            let (name, signature) = (c"toString", c"()Ljava/lang/String;");
            let method = (table.GetMethodID)(self.0, class, name.as_ptr(), signature.as_ptr());
            self.delete_local(class);
            if method.is_null() {
                (table.ExceptionClear)(self.0);
                return None;
            }
            let text = (table.CallObjectMethodA)(self.0, object, method, [].as_ptr());
            if (table.ExceptionCheck)(self.0) || text.is_null() {
                (table.ExceptionClear)(self.0);
                return None;
            }
            let chars = (table.GetStringUTFChars)(self.0, text, null_mut());
            if chars.is_null() {
                (table.ExceptionClear)(self.0);
                return None;
            }
            let words = CStr::from_ptr(chars).to_string_lossy().into_owned();
            (table.ReleaseStringUTFChars)(self.0, text, chars);
            self.delete_local(text);
            Some(words)
        }
    }

    /// A class that the JVM itself has, by its name with slashes.
    pub fn find_class(&self, name: &CStr) -> Result<jclass> {
        // SAFETY: a terminated string.
        let class = unsafe { (self.table().FindClass)(self.0, name.as_ptr()) };
        self.unless_thrown(class)
    }

    /// Makes a class of a class file.
    pub fn define_class(&self, name: &CStr, loader: jobject, bytes: &[u8]) -> Result<jclass> {
        // SAFETY: a terminated string, a class loader, and so many bytes.
        let class = unsafe {
            let (data, len) = (bytes.as_ptr().cast::<jbyte>(), bytes.len() as jint);
            (self.table().DefineClass)(self.0, name.as_ptr(), loader, data, len)
        };
        self.unless_thrown(class)
    }

    /// Gives a class its native methods.
    pub fn register(&self, class: jclass, methods: &[JNINativeMethod]) -> Result<()> {
        // SAFETY: so many methods; that their functions have the signatures
        // they claim is for whoever wrote the table to know.
        unsafe {
            (self.table().RegisterNatives)(self.0, class, methods.as_ptr(), methods.len() as jint)
        };
        self.unless_thrown(())
    }

    /// A static method of a class.
    pub fn static_method(&self, class: jclass, name: &CStr, signature: &CStr) -> Result<jmethodID> {
        // SAFETY: a class and terminated strings.
        let method = unsafe {
            (self.table().GetStaticMethodID)(self.0, class, name.as_ptr(), signature.as_ptr())
        };
        self.unless_thrown(method)
    }

    /// A method of a class's objects.
    pub fn method(&self, class: jclass, name: &CStr, signature: &CStr) -> Result<jmethodID> {
        // SAFETY: a class and terminated strings.
        let method =
            unsafe { (self.table().GetMethodID)(self.0, class, name.as_ptr(), signature.as_ptr()) };
        self.unless_thrown(method)
    }

    /// Calls a static method that returns an object.
    ///
    /// # Safety
    /// The method is one of the class, and takes these arguments.
    pub unsafe fn call_static_object(
        &self,
        class: jclass,
        method: jmethodID,
        arguments: &[jvalue],
    ) -> Result<jobject> {
        // SAFETY: by the contract.
        let object = unsafe {
            (self.table().CallStaticObjectMethodA)(self.0, class, method, arguments.as_ptr())
        };
        self.unless_thrown(object)
    }

    /// Calls a static method that returns nothing.
    ///
    /// # Safety
    /// As for `call_static_object`.
    pub unsafe fn call_static_void(
        &self,
        class: jclass,
        method: jmethodID,
        arguments: &[jvalue],
    ) -> Result<()> {
        // SAFETY: by the contract.
        unsafe {
            (self.table().CallStaticVoidMethodA)(self.0, class, method, arguments.as_ptr());
        }
        self.unless_thrown(())
    }

    /// Calls a method that returns nothing.
    ///
    /// # Safety
    /// The method is one of the object's class, and takes these arguments.
    pub unsafe fn call_void(
        &self,
        object: jobject,
        method: jmethodID,
        arguments: &[jvalue],
    ) -> Result<()> {
        // SAFETY: by the contract.
        unsafe { (self.table().CallVoidMethodA)(self.0, object, method, arguments.as_ptr()) };
        self.unless_thrown(())
    }

    /// Whether an object is of a class.
    pub fn is_instance(&self, object: jobject, class: jclass) -> bool {
        // SAFETY: both are references.
        unsafe { (self.table().IsInstanceOf)(self.0, object, class) }
    }

    /// A reference that is valid in all threads until it is deleted; null if
    /// there is no memory.
    pub fn global(&self, object: jobject) -> jobject {
        // SAFETY: a reference.
        unsafe { (self.table().NewGlobalRef)(self.0, object) }
    }

    /// Deletes a global reference.
    pub fn delete_global(&self, object: jobject) {
        // SAFETY: a global reference, which nobody uses any more.
        unsafe { (self.table().DeleteGlobalRef)(self.0, object) };
    }

    /// Deletes a local reference.
    pub fn delete_local(&self, object: jobject) {
        // SAFETY: a local reference of this thread, which is not used any more.
        unsafe { (self.table().DeleteLocalRef)(self.0, object) };
    }

    /// A new `byte[]`; null, with an exception pending, if there is no memory.
    pub fn bytes_or_pending(&self, data: &[u8]) -> jobject {
        let (from, len) = (data.as_ptr().cast::<jbyte>(), data.len() as jint);
        // SAFETY: the array is new and has this length.
        unsafe {
            let array = (self.table().NewByteArray)(self.0, len);
            if !array.is_null() {
                (self.table().SetByteArrayRegion)(self.0, array, 0, len, from);
            }
            array
        }
    }

    /// A new `byte[]`.
    pub fn bytes(&self, data: &[u8]) -> Result<jobject> {
        let array = self.bytes_or_pending(data);
        self.unless_thrown(array)
    }

    /// A new `byte[][]`.
    pub fn byte_arrays<'a>(&self, all: impl ExactSizeIterator<Item = &'a [u8]>) -> Result<jobject> {
        let class = self.find_class(c"[B")?;
        // SAFETY: an array of arrays of bytes, filled with nulls.
        let array =
            unsafe { (self.table().NewObjectArray)(self.0, all.len() as jint, class, null_mut()) };
        let array = self.unless_thrown(array)?;
        for (index, data) in all.enumerate() {
            let bytes = self.bytes(data)?;
            // SAFETY: the index is less than the length, the type is right.
            unsafe { (self.table().SetObjectArrayElement)(self.0, array, index as jint, bytes) };
            self.delete_local(bytes);
        }
        self.delete_local(class);
        Ok(array)
    }

    /// The length of an array.
    pub fn length(&self, array: jobject) -> usize {
        // SAFETY: an array.
        unsafe { (self.table().GetArrayLength)(self.0, array) as usize }
    }

    /// Copies `len` bytes of a `byte[]`, from `offset` on.
    ///
    /// # Safety
    /// There is room for so many at `into`. (If the array is shorter, that is an
    /// exception, which is then pending.)
    pub unsafe fn copy_bytes(&self, array: jobject, offset: jint, len: jint, into: *mut u8) {
        // SAFETY: by the contract.
        unsafe { (self.table().GetByteArrayRegion)(self.0, array, offset, len, into.cast()) };
    }

    /// A whole `byte[]` as a vector.
    pub fn vec_of(&self, array: jobject) -> Vec<u8> {
        let mut vec = vec![0; self.length(array)];
        // SAFETY: the vector is as long as the array.
        unsafe { self.copy_bytes(array, 0, vec.len() as jint, vec.as_mut_ptr()) };
        vec
    }

    /// Runs something with the memory of a `byte[]`, during which it must not
    /// call JNI nor block; `None` if there is no memory.
    pub fn with_array<T>(&self, array: jobject, body: impl FnOnce(*const u8) -> T) -> Option<T> {
        let table = self.table();
        // SAFETY: an array; it is released before anything else is called, and
        // nothing was written.
        unsafe {
            let data = (table.GetPrimitiveArrayCritical)(self.0, array, null_mut());
            if data.is_null() {
                return None;
            }
            let result = body(data.cast_const().cast());
            (table.ReleasePrimitiveArrayCritical)(self.0, array, data, jni_sys::JNI_ABORT);
            Some(result)
        }
    }

    /// A direct `ByteBuffer` of memory that is not Java's; null, with an
    /// exception pending, if there is no memory for it.
    pub fn direct_buffer_or_pending(&self, address: *mut c_void, len: usize) -> jobject {
        // SAFETY: that the memory is there as long as the buffer is used is for
        // the caller to see to, or for whoever gets the buffer to be told.
        unsafe { (self.table().NewDirectByteBuffer)(self.0, address, len as jlong) }
    }

    /// A direct `ByteBuffer` of memory that is not Java's.
    pub fn direct_buffer(&self, address: *mut c_void, len: usize) -> Result<jobject> {
        let buffer = self.direct_buffer_or_pending(address, len);
        self.unless_thrown(buffer)
    }

    /// Where the memory of a direct buffer is; null if it is not direct.
    pub fn direct_address(&self, buffer: jobject) -> *mut u8 {
        // SAFETY: a buffer.
        unsafe { (self.table().GetDirectBufferAddress)(self.0, buffer).cast() }
    }
}

/// A row of a table for [`Env::register`].
pub fn native(
    name: &'static CStr,
    signature: &'static CStr,
    function: *mut c_void,
) -> JNINativeMethod {
    JNINativeMethod {
        name: name.as_ptr().cast_mut().cast::<c_char>(),
        signature: signature.as_ptr().cast_mut().cast::<c_char>(),
        fnPtr: function,
    }
}
